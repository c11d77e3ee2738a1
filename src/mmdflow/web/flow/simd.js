// The sums of `sums.js`, four points at once, in WebAssembly SIMD: float32 inside blocks of sources, float64 across them.
// The module is made here, from formulas, when the page loads; there is no binary to keep.
import {
  F32, I32, V128, add, addI32, addInt, all, allInt, assemble, div, get, i32, load, loadSplat, loopWhile, max, mul, set,
  shiftLeft, splat, sqrt, store, sub,
} from "./wasm.js";

/** Sources a block: float32 sums of so few keep their digits. */
const BLOCK = 256;
/** Squared distances below this count as it: a point has no slope at itself, and nothing is divided by 0. */
const NEAR = 1e-30;

// Parameters: addresses of z.x, z.y and the end of z.x; of the sources' x, y and the end of x; of the three results; the rate.
const [ZX, ZY, ZEND, SX, SY, SEND, VALUE, GX, GY, RATE] = Array(10).keys();
// Locals: the address of a source as its distance from the first, then vectors.
const [AT, YAT, X, Y, DX, DY, R2, R, K, T, WHOLE, V, SUMX, SUMY, RATES] = Array.from(Array(15).keys(), (i) => i + 10);
const PARAMETERS = [...Array(9).fill(I32), F32];
const LOCALS = [I32, I32, ...Array(13).fill(V128)];

/** Least power of two that a kernel takes: products with smaller ones are subnormal, and an order of magnitude slower. */
const LEAST = -100;
/** Added to a number below 2^22, it leaves the nearest whole number in the low bits of the sum. */
const ROUND = 1.5 * 2 ** 23;

/** 2^t for t <= 0: whole powers by the exponent's bits, the rest by its Taylor series (relative error 1.2e-7). */
function exp2(t) {
  const coefficients = [1, 1, 2, 6, 24, 120, 720].map((factorial, i) => Math.LN2 ** i / factorial);
  const series = coefficients.reduceRight((sum, c) => (sum ? add(mul(sum, get(T)), all(c)) : all(c)), null);
  return [
    ...set(T, max(t, all(LEAST))),
    ...set(WHOLE, add(get(T), all(ROUND))),
    ...set(T, sub(get(T), sub(get(WHOLE), all(ROUND)))),
    ...mul(series, addInt(shiftLeft(get(WHOLE), i32(23)), allInt(127 << 23))),
  ];
}

const rate = get(RATES);
/** Code that leaves k in K and, on the stack, the slope up to a constant factor. */
const PAIRS = {
  riesz: [...set(R, sqrt(get(R2))), ...set(K, get(R)), ...div(all(1), get(R))],
  gaussian: [...set(K, exp2(mul(get(R2), rate))), ...get(K)],
  laplace: [...set(R, sqrt(get(R2))), ...set(K, exp2(mul(get(R), rate))), ...div(get(K), get(R))],
  laplaceShift: [...set(K, exp2(mul(sqrt(get(R2)), rate))), ...get(K)],
  imq: [...set(T, div(all(1), add(get(R2), rate))), ...set(K, sqrt(get(T))), ...mul(get(T), get(K))],
};

function body(pair) {
  const pairs = [
    ...set(DX, sub(get(X), loadSplat(get(AT)))),
    ...set(DY, sub(get(Y), loadSplat(get(YAT)))),
    ...set(R2, max(add(mul(get(DX), get(DX)), mul(get(DY), get(DY))), all(NEAR))),
    ...pair,  // and its slope into T
    ...set(T, []),
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
  return [...set(RATES, splat(get(RATE))), ...loopWhile(ZX, ZEND, points)];
}

/** [export, rate, factor of values, factor of slopes] of a kernel of a width. */
function plan({ kernel, width = 1, shift = false }) {
  const log2e = Math.LOG2E;
  if (kernel === "riesz") return ["riesz", 0, -1, -1];
  if (kernel === "imq") return ["imq", width * width, 1, -1];
  if (kernel === "gaussian") return ["gaussian", (-0.5 * log2e) / (width * width), 1, shift ? -1 : -1 / (width * width)];
  return shift ? ["laplaceShift", -log2e / width, 1, -1] : ["laplace", -log2e / width, 1, -1 / width];
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
  shared.fill(0, 0, 2 * rows);
  shared.set(z.x, zx);
  shared.set(z.y, zy);
  shared.set(sources.x, sx);
  shared.set(sources.y, sy);
  const [name, rate, valueFactor, slopeFactor] = plan(spec);
  const out = { value: new Float64Array(n), gx: new Float64Array(n), gy: new Float64Array(n) };
  for (let first = 0; first < m; first += BLOCK) {
    const end = Math.min(first + BLOCK, m);
    exports[name](4 * zx, 4 * zy, 4 * (zx + rows), 4 * (sx + first), 4 * (sy + first), 4 * (sx + end), 4 * value, 4 * gx, 4 * gy, rate);
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
