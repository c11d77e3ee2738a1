// The page's flow as a program of the library.
import { short } from "../common/controls.js";
import { KERNELS } from "./sums.js";

/** Return Python that moves particles as the page does; `toy` is the name of the target where mmdflow has it. */
export function pythonCode(settings, { toy, count, steps }) {
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
    `start = 0.25 * np.random.default_rng(0).normal(size=(${count}, 2))`,
    `result = flow(${velocity}, start,`,
    `              ${options.join(", ")})`,
    "print(result.particles)",
  ].join("\n");
}
