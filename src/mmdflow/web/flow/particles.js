// The flow of a cloud of particles: velocities from sums over pairs, steps with momentum, F, and the rules for widths and steps.
// `push` holds the sums over the particles, `pull` those over the target (see sums.js). Names and formulas are mmdflow's.
import { atZero } from "./sums.js";

/** In units of one particle's share: where the others' kernel mass is below it, there is nothing to push off (float32 has 1e-7). */
const ALONE = 1e-6;

/** A kernel mass that counts as none: simd.js has no kernel value below 2^-100. */
const NOTHING = 2 ** -99;

/** What drives the particles: the witness of the MMD, or the mean-shift drift. */
export const FIELDS = {
  mmd: "MMD flow",
  "mean-shift": "Mean-shift drift",
};

/** Return what `sums` needs for a field with a kernel. */
export function sumSpec({ field, kernel, width }) {
  return { kernel, width: width ?? 1, shift: field === "mean-shift" };
}

/**
 * Return {x, y, stranded}: the velocity at every point. For the MMD it is minus the gradient of f = push - pull. The mean-shift
 * drift is pull.g / pull.value - push.g / push.value. The first points are the `particles`, that many; each leaves itself out of its
 * push, unless they are `shifted` off their places. `stranded` counts those whose kernel reaches no target, which feel no pull.
 */
export function velocity(settings, push, pull, { particles, shifted = false }) {
  const n = push.value.length;
  const v = { x: new Float64Array(n), y: new Float64Array(n), stranded: 0 };
  if (settings.field === "mmd") {
    for (let i = 0; i < n; i++) {
      v.x[i] = pull.gx[i] - push.gx[i];
      v.y[i] = pull.gy[i] - push.gy[i];
    }
    return v;
  }
  const itself = shifted ? 0 : atZero(sumSpec(settings)) / particles;
  for (let i = 0; i < n; i++) {
    if (pull.value[i] > NOTHING) {
      v.x[i] = pull.gx[i] / pull.value[i];
      v.y[i] = pull.gy[i] / pull.value[i];
    } else if (i < particles) v.stranded++;
    const others = push.value[i] - (i < particles ? itself : 0);
    if (others > ALONE / particles) {
      v.x[i] -= push.gx[i] / others;
      v.y[i] -= push.gy[i] / others;
    }
  }
  return v;
}

/** Return F = 1/2 MMD^2, from the sums at the particles themselves and the mean of k over pairs of the target. */
export function energy(push, pull, targetSelf, count = push.value.length) {
  let total = 0;
  for (let i = 0; i < count; i++) total += push.value[i] / 2 - pull.value[i];
  return total / count + targetSelf / 2;
}

/** Particles that move by heavy-ball steps: p <- momentum p - v, x <- x - step p (`flow(..., momentum=)` of mmdflow). */
export class Particles {
  constructor({ x, y }) {
    this.x = Float64Array.from(x);
    this.y = Float64Array.from(y);
    this.px = new Float64Array(this.x.length);
    this.py = new Float64Array(this.x.length);
    this.steps = 0;
  }

  get count() {
    return this.x.length;
  }

  /** Return the points that gradients are taken at: the particles, or these plus noise of that scale (noise injection). */
  points(noise, generator) {
    if (!noise) return { x: this.x.slice(), y: this.y.slice() };
    const moved = (values) => values.map((value) => value + noise * generator.normal());
    return { x: moved(this.x), y: moved(this.y) };
  }

  /** Take a step along velocities, of which the first `count` are the particles'. */
  advance(v, { step, momentum }) {
    for (let i = 0; i < this.count; i++) {
      this.px[i] = momentum * this.px[i] - v.x[i];
      this.py[i] = momentum * this.py[i] - v.y[i];
      this.x[i] -= step * this.px[i];
      this.y[i] -= step * this.py[i];
    }
    this.steps++;
  }

  /** Whether all coordinates are finite and below a bound. */
  within(bound) {
    const inside = (value) => Math.abs(value) < bound;
    return this.x.every(inside) && this.y.every(inside);
  }
}

/** Return the root mean square of a cloud's coordinates about their means; 1 where all points are equal. */
export function spread({ x, y }) {
  const about = (values) => {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    return values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  };
  return Math.sqrt((about(x) + about(y)) / (2 * x.length)) || 1;
}

/** Return mmdflow's usual step and momentum of a field. */
export function usualStep({ field, kernel, width }, spreadOfTarget) {
  if (field === "mean-shift") return { size: 0.5, momentum: 0 };
  if (kernel === "riesz") return { size: 0.3 * spreadOfTarget, momentum: 0.9 };
  const height = kernel === "imq" ? 1 / width : 1; // k(0)
  return { size: (2 * width * width) / height, momentum: 0 };
}

/** Return mmdflow's default width: the root of (median distance * median distance to the nearest), over at most 1000 points. */
export function defaultWidth({ x, y }) {
  const n = Math.min(x.length, 1000);
  const at = Array.from({ length: n }, (_, i) => (n === x.length ? i : Math.round((i * (x.length - 1)) / (n - 1))));
  const pairs = new Float64Array((n * (n - 1)) / 2);
  const nearest = new Float64Array(n).fill(Infinity);
  let pair = 0;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) {
      const r2 = (x[at[i]] - x[at[j]]) ** 2 + (y[at[i]] - y[at[j]]) ** 2;
      pairs[pair++] = r2;
      if (r2 > 0) {
        nearest[i] = Math.min(nearest[i], r2);
        nearest[j] = Math.min(nearest[j], r2);
      }
    }
  }
  const half = median(pairs) || median(pairs.filter((r2) => r2 > 0));
  const width = Math.sqrt(Math.sqrt(half) * Math.sqrt(median(nearest)));
  return Number.isFinite(width) && width > 0 ? width : 1;
}

/** Return the lower median, by Hoare's selection; the values are reordered. */
function median(values) {
  const wanted = Math.floor((values.length - 1) / 2);
  let low = 0, high = values.length - 1;
  while (low < high) {
    const pivot = values[(low + high) >> 1];
    let i = low, j = high;
    while (i <= j) {
      while (values[i] < pivot) i++;
      while (values[j] > pivot) j--;
      if (i <= j) {
        [values[i], values[j]] = [values[j], values[i]];
        i++;
        j--;
      }
    }
    if (wanted <= j) high = j;
    else if (wanted >= i) low = i;
    else break;
  }
  return values[wanted];
}
