// Sampling the shipped DMMD: noise flows down the noise levels, as mmdflow.methods.dmmd.sampler has it, one level at a time.
import { Features, readSafetensors } from "./model.js";

/** A pipeline folder that was read: features, target means, and the sampler's defaults. */
export class Pipeline {
  /** `config` is the folder's config.json; `model` and `means` are the bytes of its two safetensors files. */
  constructor(config, model, means) {
    const { sampler } = config;
    const known = {
      schedule: config.schedule === "linear", base_kernel: config.base_kernel.name === "linear", integrator: sampler.integrator === "euler",
      momentum: sampler.momentum === 0, whitening: sampler.whitening === null, feedback: (sampler.feedback ?? 1) === 1,
      steps_per_level: sampler.steps_per_level === 1,
      step_size: sampler.step_size === "distance", final_sampler: sampler.final_steps === 0 || sampler.final_sampler === "approximate",
      data_scale: config.data_scale === 1,
    };
    const unknown = Object.keys(known).filter((name) => !known[name]);
    if (unknown.length) throw new Error(`the model's ${unknown.join(", ")} is another than the page can run`);
    this.features = new Features(config.features, readSafetensors(model));
    this.means = readSafetensors(means);
    this.settings = sampler;
    this.secondMoment = config.second_moment;
    this.classes = this.means.class_clean?.shape[0] ?? 0;
  }

  /** Return the walk: [{t, step, kind}], the final steps among them. */
  walk({ levels = this.settings.num_levels, sampler = this.settings.sampler } = {}) {
    const grid = this.means.levels.data;
    const t = (this.settings.t_max ?? grid.at(-1)), low = this.settings.t_min ?? grid[0];
    const ts = Array.from({ length: levels }, (_, i) => (levels === 1 ? t : t + ((low - t) * i) / (levels - 1)));
    // of the linear schedule, root mean squares of x_t - x_0 are t sqrt(second moment + 1)
    const unit = this.settings.step_scale * Math.sqrt(this.features.dim * (this.secondMoment + 1));
    const walk = ts.map((level, i) => ({ t: level, step: unit * (level - (ts[i + 1] ?? 0)), kind: sampler }));
    const final = this.settings.final_level ?? ts.at(-1);
    const step = this.settings.final_step_size ?? final * Math.sqrt(this.features.dim * (this.secondMoment + 1));
    return [...walk, ...Array(this.settings.final_steps).fill({ t: final, step, kind: "approximate" })];
  }

  /** Return the clean and the noisy mean features at level t, of all data or of a class. */
  meansAt(t, label = null) {
    const grid = this.means.levels.data;
    const at = Math.min(Math.max(t, grid[0]), grid.at(-1));
    let i = 0;
    while (i < grid.length - 2 && grid[i + 1] < at) i++;
    const weight = (at - grid[i]) / (grid[i + 1] - grid[i]);
    const count = this.features.count;
    const between = (data, row) => Float64Array.from({ length: count }, (_, k) => {
      const a = data[row * count + k], b = data[(row + 1) * count + k];
      return a + weight * (b - a);
    });
    const row = (label ?? 0) * grid.length + i;
    const [clean, noisy] = label === null ? [this.means.clean, this.means.noisy] : [this.means.class_clean, this.means.class_noisy];
    return { clean: between(clean.data, row), noisy: between(noisy.data, row) };
  }

  /** Return {cotangent, value}: w on features for rows of phi, and 1/2 |mean phi - clean mean|^2. */
  #field(phi, rows, t, kind, label) {
    const { clean, noisy } = this.meansAt(t, label);
    const count = this.features.count;
    const mean = new Float64Array(count);
    for (const i of rows) for (let k = 0; k < count; k++) mean[k] += phi[i * count + k] / rows.length;
    const value = mean.reduce((sum, m, k) => sum + (m - clean[k]) ** 2 / 2, 0);
    const cotangent = clean.map((c, k) => c - (kind === "exact" ? mean[k] : noisy[k]));
    return { cotangent, value };
  }

  /**
   * Return {velocity, value} of n particles x [n, dim] at a level of the walk. Labels, where there are any, part the particles into
   * classes that flow on their own; guidance g makes the field of a class (1 + g) of it less g of that of all.
   */
  velocity(x, n, { t, kind }, labels = null, guidance = 0) {
    const { count, dim } = this.features;
    const { phi, pullback } = this.features.at(x, n, t);
    const w = new Float64Array(n * count);
    const everyone = Array.from({ length: n }, (_, i) => i);
    const all = this.#field(phi, everyone, t, kind, null);
    let value = all.value;
    if (labels === null) for (const i of everyone) w.set(all.cotangent, i * count);
    else {
      value = 0;
      for (const label of new Set(labels)) {
        const rows = everyone.filter((i) => labels[i] === label);
        const own = this.#field(phi, rows, t, kind, label);
        value += (own.value * rows.length) / n;
        const guided = own.cotangent.map((c, k) => (1 + guidance) * c - guidance * all.cotangent[k]);
        for (const i of rows) w.set(guided, i * count);
      }
    }
    const velocity = pullback(w);
    const most = this.settings.max_slope;
    if (most !== null) {
      for (let i = 0; i < n; i++) {
        const row = velocity.subarray(i * dim, (i + 1) * dim);
        const shrink = Math.min(most / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0)), 1);
        for (let e = 0; e < dim; e++) row[e] *= shrink;
      }
    }
    return { velocity, value };
  }

  /** Yield {done, total, t, value, particles} after every step from noise [n, dim] on; the last particles are clamped to [-1, 1]. */
  *sample(noise, n, { labels = null, guidance = 0, ...options } = {}) {
    let x = Float64Array.from(noise);
    const walk = this.walk(options);
    for (const [i, level] of walk.entries()) {
      const { velocity, value } = this.velocity(x, n, level, labels, guidance);
      x = x.map((v, j) => v + level.step * velocity[j]);
      if (i === walk.length - 1) x = x.map((v) => Math.min(Math.max(v, -1), 1));
      yield { done: i + 1, total: walk.length, t: level.t, value, particles: x };
    }
  }
}
