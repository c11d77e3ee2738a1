// The sums of `sums.js`, four points at once, in WebAssembly SIMD: float32 inside blocks of sources, float64 across them.
// The module is made here, from formulas, when the page loads; there is no binary to keep.
import {
  I32, V128, add, addI32, addInt, all, assemble, div, get, i32, load, loadSplat, loopWhile, max, min, mul, set, shiftLeft, sqrt, store, sub,
} from "./wasm.js";

/** Sources a block: float32 sums of so few keep their digits. */
const BLOCK = 256;
/** Squared distances below this count as it where something is divided by them: a point has no slope at itself. */
const NEAR = 1e-30;
/** The greatest -log2 of a kernel: products with smaller ones are subnormal, and an order of magnitude slower. */
const MOST = 100;
/** Added to a number below 2^22, it leaves the nearest whole number in the low bits of the sum. */
const ROUND = 1.5 * 2 ** 23;
/** 2^f for |f| <= 1/2, lowest power first: relative error 8e-8, which is half a unit of float32. */
const EXP2 = interpolate((f) => 2 ** f, 6, 0.5);

/** Return the coefficients of the polynomial that meets g at n Chebyshev nodes of [-radius, radius], by Newton's differences. */
function interpolate(g, n, radius) {
  const nodes = Array.from({ length: n }, (_, i) => radius * Math.cos((Math.PI * (i + 0.5)) / n));
  const differences = nodes.map(g);
  for (let order = 1; order < n; order++) {
    for (let i = n - 1; i >= order; i--) differences[i] = (differences[i] - differences[i - 1]) / (nodes[i] - nodes[i - order]);
  }
  let c = [];
  for (let i = n - 1; i >= 0; i--) {  // Horner's rule on polynomials: c <- c (f - node) + difference
    const shifted = [0, ...c];
    c.forEach((value, power) => (shifted[power] -= nodes[i] * value));
    shifted[0] += differences[i];
    c = shifted;
  }
  return c;
}

// Parameters: addresses of z.x, z.y and the end of z.x; of the sources' x, y and the end of x; of the three results.
const [ZX, ZY, ZEND, SX, SY, SEND, VALUE, GX, GY] = Array(9).keys();
// Locals: the addresses of a source's x and y, then vectors, then a vector for every constant.
const [AT, YAT, X, Y, DX, DY, R2, K, T, WHOLE, V, SUMX, SUMY, FIRST] = Array.from(Array(14).keys(), (i) => i + 9);
const CONSTANTS = [NEAR, MOST, ROUND, 1, ...EXP2];
const placeOf = (value) => FIRST + CONSTANTS.indexOf(value);
const constant = (value) => get(placeOf(value));
const PARAMETERS = Array(9).fill(I32);
const LOCALS = [I32, I32, ...Array(placeOf(CONSTANTS.at(-1)) - X + 1).fill(V128)];

/** 2^-x for x >= 0: whole powers go to the exponent's bits, the rest is a polynomial. */
function exp2OfMinus(x) {
  const series = EXP2.reduceRight((sum, c) => (sum ? add(mul(sum, get(T)), constant(c)) : constant(c)), null);
  return [
    ...set(T, min(x, constant(MOST))),
    ...set(WHOLE, sub(constant(ROUND), get(T))),
    ...set(T, sub(sub(constant(ROUND), get(WHOLE)), get(T))),
    ...addInt(series, shiftLeft(get(WHOLE), i32(23))),
  ];
}

const distance = sqrt(max(get(R2), constant(NEAR)));
/** Code that leaves k in K and, on the stack, the slope, both up to constant factors; distances are in units of the width. */
const PAIRS = {
  riesz: [...set(K, distance), ...div(constant(1), get(K))],
  gaussian: [...set(K, exp2OfMinus(get(R2))), ...get(K)],
  laplace: [...set(R2, distance), ...set(K, exp2OfMinus(get(R2))), ...div(get(K), get(R2))],
  laplaceShift: [...set(K, exp2OfMinus(sqrt(get(R2)))), ...get(K)],
  imq: [...set(T, div(constant(1), add(get(R2), constant(1)))), ...set(K, sqrt(get(T))), ...mul(get(T), get(K))],
};

function body(pair) {
  const pairs = [
    ...set(DX, sub(get(X), loadSplat(get(AT)))),
    ...set(DY, sub(get(Y), loadSplat(get(YAT)))),
    ...set(R2, add(mul(get(DX), get(DX)), mul(get(DY), get(DY)))),
    ...set(T, pair),
    ...set(V, add(get(V), get(K))),
    ...set(SUMX, add(get(SUMX), mul(get(T), get(DX)))),
    ...set(SUMY, add(get(SUMY), mul(get(T), get(DY)))),
    ...set(YAT, addI32(get(YAT), i32(4))),
    ...set(AT, addI32(get(AT), i32(4))),
  ];
  const advance = [ZX, ZY, VALUE, GX, GY].flatMap((p) => set(p, addI32(get(p), i32(16))));
  const points = [
    ...set(X, load(get(ZX))), ...set(Y, load(get(ZY))),
    ...[V, SUMX, SUMY].flatMap((v) => set(v, all(0))),
    ...set(AT, get(SX)), ...set(YAT, get(SY)),
    ...loopWhile(AT, SEND, pairs),
    ...store(get(VALUE), get(V)), ...store(get(GX), get(SUMX)), ...store(get(GY), get(SUMY)),
    ...advance,
  ];
  // constants are set before the loops: browsers would make them anew for every pair
  return [...CONSTANTS.flatMap((value) => set(placeOf(value), all(value))), ...loopWhile(ZX, ZEND, points)];
}

/** [export, unit of length, factor of values, factor of slopes] of a kernel of a width b, where k = value factor * k(r / unit). */
function plan({ kernel, width: b = 1, shift = false }) {
  if (kernel === "riesz") return ["riesz", 1, -1, -1];
  if (kernel === "imq") return ["imq", b, 1 / b, -1 / (b * b)];
  if (kernel === "gaussian") {
    const unit = b * Math.sqrt(2 / Math.LOG2E);
    return ["gaussian", unit, 1, shift ? -unit : -unit / (b * b)];
  }
  const unit = b / Math.LOG2E;
  return shift ? ["laplaceShift", unit, 1, -unit] : ["laplace", unit, 1, -1 / b];
}

/** Return `sums` of sums.js, compiled; null where there is no WebAssembly SIMD. */
export function compiledSums() {
  if (typeof WebAssembly === "undefined") return null;
  const functions = Object.fromEntries(
    Object.entries(PAIRS).map(([name, pair]) => [name, { parameters: PARAMETERS, locals: LOCALS, body: body(pair) }]),
  );
  const bytes = assemble(functions);
  if (!WebAssembly.validate(bytes)) return null;
  const memory = new WebAssembly.Memory({ initial: 1 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
  return (spec, z, sources) => run(exports, memory, spec, z, sources);
}

function run(exports, memory, spec, z, sources) {
  const n = z.x.length;
  const m = sources.x.length;
  const rows = 4 * Math.ceil(n / 4);
  const floats = 5 * rows + 2 * m;
  const missing = Math.ceil((4 * floats - memory.buffer.byteLength) / 65536);
  if (missing > 0) memory.grow(missing);
  const shared = new Float32Array(memory.buffer);
  const [zx, zy, value, gx, gy] = Array.from({ length: 5 }, (_, i) => i * rows);
  const sx = 5 * rows;
  const sy = sx + m;
  const [name, unit, valueFactor, slopeFactor] = plan(spec);
  shared.fill(0, 0, 2 * rows);
  for (const [to, from] of [[zx, z.x], [zy, z.y], [sx, sources.x], [sy, sources.y]]) {
    for (let i = 0; i < from.length; i++) shared[to + i] = from[i] / unit;
  }
  const out = { value: new Float64Array(n), gx: new Float64Array(n), gy: new Float64Array(n) };
  for (let first = 0; first < m; first += BLOCK) {
    const end = Math.min(first + BLOCK, m);
    exports[name](4 * zx, 4 * zy, 4 * (zx + rows), 4 * (sx + first), 4 * (sy + first), 4 * (sx + end), 4 * value, 4 * gx, 4 * gy);
    for (let i = 0; i < n; i++) {
      out.value[i] += shared[value + i];
      out.gx[i] += shared[gx + i];
      out.gy[i] += shared[gy + i];
    }
  }
  for (let i = 0; i < n; i++) {
    out.value[i] *= valueFactor / m;
    out.gx[i] *= slopeFactor / m;
    out.gy[i] *= slopeFactor / m;
  }
  return out;
}
