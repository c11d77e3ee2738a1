// The page's flow as a program of the library.
import { short } from "../common/controls.js";
import { KERNELS } from "./sums.js";

/** The page's starts (targets.js), n points each. */
const STARTS = {
  blob: (n) => `start = 0.25 * rng.normal(size=(${n}, 2))`,
  square: (n) => `start = rng.uniform(-2, 2, size=(${n}, 2))`,
  ring: (n) => `angle = rng.uniform(0, 2 * np.pi, size=${n})\nstart = 2.1 * np.stack([np.cos(angle), np.sin(angle)], 1)`,
  left: (n) => `start = [-1.9, 0] + [0.08, 0.5] * rng.normal(size=(${n}, 2))`,
};

/** Return Python that moves particles as the page does; `toy` is the name of the target where mmdflow has it. */
export function pythonCode(settings, { toy, start, count, steps }) {
  const { field, kernel, width, step, momentum, noise } = settings;
  const { python, width: hasWidth } = KERNELS[kernel];
  const k = hasWidth ? `${python}(${short(width)})` : `${python}()`;
  const drift = field === "mean-shift";
  const velocity = drift ? `Drift(target, ${k}, normalization="mean-shift")` : `MMD(target, ${k})`;
  const options = [`step_size=${short(step)}`, `momentum=${short(momentum)}`, `num_steps=${Math.max(steps, 1)}`];
  if (noise) options.push(`noise_injection=${short(noise)}`);
  return [
    "import numpy as np",
    `from mmdflow import ${[drift ? "Drift" : "MMD", python].sort().join(", ")}, flow`,
    ...(toy ? ["from mmdflow.data import toy"] : []),
    "",
    toy ? `target = toy("${toy}", ${count}).numpy()` : 'target = np.loadtxt("target.csv", delimiter=",", skiprows=1)',
    "rng = np.random.default_rng(0)",
    STARTS[start](count),
    `result = flow(${velocity}, start,`,
    `              ${options.join(", ")})`,
    "print(result.particles)",
  ].join("\n");
}
