// Sums over pairs in float64: the plain reference, and what runs where WebAssembly has no SIMD.
//
// A cloud is {x, y}, two Float64Arrays of coordinates. For points z and sources p of equal weight 1/m, `sums` gives
//   value(z) = mean_j k(z, p_j)   and   (gx, gy)(z) = mean_j s(r) (z - p_j),
// where s is the kernel's slope k'(r) / r, so that (gx, gy) is the gradient of the value. With `shift` it is -k instead: then
// (gx, gy) is the mean-shift sum mean_j k(z, p_j) (p_j - z). What is not smooth at r = 0 has slope 0 there.

/** What the page knows of each kernel: its name in mmdflow, its formula, the name of its width, whether drifts take it. */
export const KERNELS = {
  riesz: { label: "Riesz (energy distance)", python: "Riesz", formula: "−|x − y|", width: null, drifts: false },
  gaussian: { label: "Gaussian", python: "Gaussian", formula: "exp(−|x − y|² / 2b²)", width: "bandwidth", drifts: true },
  laplace: { label: "Laplace", python: "Laplace", formula: "exp(−|x − y| / b)", width: "bandwidth", drifts: true },
  imq: { label: "Inverse multiquadric", python: "InverseMultiquadric", formula: "(b² + |x − y|²)^−½", width: "scale", drifts: false },
};

/** The slope of the pair that a profile was last called for. */
let slope = 0;

/** Profiles of a kernel of width b: r^2 -> k, with the slope left in `slope`. */
const PROFILES = {
  riesz: () => (r2) => {
    const r = Math.sqrt(r2);
    slope = r > 0 ? -1 / r : 0;
    return -r;
  },
  gaussian: (b) => (r2) => {
    const k = Math.exp(-r2 / (2 * b * b));
    slope = -k / (b * b);
    return k;
  },
  laplace: (b) => (r2) => {
    const r = Math.sqrt(r2);
    const k = Math.exp(-r / b);
    slope = r > 0 ? -k / (b * r) : 0;
    return k;
  },
  imq: (b) => (r2) => {
    const k = 1 / Math.sqrt(b * b + r2);
    slope = -k * k * k;
    return k;
  },
};

/** Return k(0). */
export function atZero({ kernel, width = 1 }) {
  return PROFILES[kernel](width)(0);
}

/** Return {value, gx, gy} at the points z: means over the sources; see above. */
export function sums({ kernel, width = 1, shift = false }, z, sources) {
  const profile = PROFILES[kernel](width);
  const n = z.x.length;
  const m = sources.x.length;
  const out = { value: new Float64Array(n), gx: new Float64Array(n), gy: new Float64Array(n) };
  for (let i = 0; i < n; i++) {
    let value = 0, gx = 0, gy = 0;
    for (let j = 0; j < m; j++) {
      const dx = z.x[i] - sources.x[j];
      const dy = z.y[i] - sources.y[j];
      const k = profile(dx * dx + dy * dy);
      const s = shift ? -k : slope;
      value += k;
      gx += s * dx;
      gy += s * dy;
    }
    out.value[i] = value / m;
    out.gx[i] = gx / m;
    out.gy[i] = gy / m;
  }
  return out;
}
