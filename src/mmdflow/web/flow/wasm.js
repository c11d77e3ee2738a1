// A small assembler for one WebAssembly module: expressions are arrays of bytes, nested as the formula is.
// It has what `simd.js` uses and no more. Opcodes: the WebAssembly core specification, version 2.0, section 5.4.

/** Return n as an unsigned LEB128 number. */
function unsigned(n) {
  const bytes = [];
  do {
    const low = n & 0x7f;
    n >>>= 7;
    bytes.push(n ? low | 0x80 : low);
  } while (n);
  return bytes;
}

/** Return n, a 32-bit integer, as a signed LEB128 number. */
function signed(n) {
  const bytes = [];
  for (;;) {
    const low = n & 0x7f;
    n >>= 7;
    const done = (n === 0 && !(low & 0x40)) || (n === -1 && low & 0x40);
    bytes.push(done ? low : low | 0x80);
    if (done) return bytes;
  }
}

const vector = (items) => [...unsigned(items.length), ...items.flat()];
const text = (name) => vector([...new TextEncoder().encode(name)]);
const section = (id, body) => [id, ...unsigned(body.length), ...body];
const simd = (opcode) => (...operands) => [...operands.flat(), 0xfd, ...unsigned(opcode)];
const scalar = (opcode) => (...operands) => [...operands.flat(), opcode];

export const I32 = 0x7f, V128 = 0x7b;

export const get = (local) => [0x20, ...unsigned(local)];
export const set = (local, value) => [...value, 0x21, ...unsigned(local)];
export const i32 = (value) => [0x41, ...signed(value)];
export const addI32 = scalar(0x6a), lessI32 = scalar(0x49);  // unsigned

export const load = (address, offset = 0) => [...address, 0xfd, ...unsigned(0), 4, ...unsigned(offset)];
export const loadSplat = (address, offset = 0) => [...address, 0xfd, ...unsigned(9), 2, ...unsigned(offset)];
export const store = (address, value, offset = 0) => [...address, ...value, 0xfd, ...unsigned(11), 4, ...unsigned(offset)];
/** A number in all four places. */
export const all = (value) => [0xfd, ...unsigned(12), ...new Uint8Array(new Float32Array(4).fill(value).buffer)];
export const add = simd(228), sub = simd(229), mul = simd(230), div = simd(231), sqrt = simd(227);
export const min = simd(234), max = simd(235);  // pmin and pmax: one instruction each
export const addInt = simd(174), shiftLeft = simd(171);

/** Run the body while the unsigned 32-bit `local` is below `end`; the body must raise it. */
export function loopWhile(local, end, body) {
  // block: loop: if not (local < end) leave; body; again
  return [0x02, 0x40, 0x03, 0x40, ...lessI32(get(local), get(end)), 0x45, 0x0d, ...unsigned(1), ...body, 0x0c, ...unsigned(0), 0x0b, 0x0b];
}

/** Return the bytes of a module that imports env.memory and exports functions {name: {parameters, locals, body}}. */
export function assemble(functions) {
  const names = Object.keys(functions);
  const all = Object.values(functions);
  const types = all.map((f) => [0x60, ...vector(f.parameters.map((t) => [t])), 0]);
  const bodies = all.map((f) => {
    const code = [...vector(f.locals.map((t) => [1, t])), ...f.body, 0x0b];
    return [...unsigned(code.length), ...code];
  });
  return new Uint8Array([
    0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, vector(types)),
    ...section(2, vector([[...text("env"), ...text("memory"), 2, 0, 1]])),
    ...section(3, vector(all.map((_, i) => unsigned(i)))),
    ...section(7, vector(names.map((name, i) => [...text(name), 0, ...unsigned(i)]))),
    ...section(10, vector(bodies)),
  ]);
}
