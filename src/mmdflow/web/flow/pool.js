// Sums over pairs at many points, shared out to Web Workers.

/** Processors are left to the page itself, and more than this many workers wait for each other. */
const MOST = 8;

export class SumPool {
  #workers;
  #waiting = new Map();
  #calls = 0;

  /** `onFailure` is called with a message if a worker cannot run. */
  constructor(onFailure, size = Math.max(1, Math.min((navigator.hardwareConcurrency || 2) - 1, MOST))) {
    this.#workers = Array.from({ length: size }, () => {
      const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
      worker.onmessage = ({ data }) => this.#waiting.get(data.id)(data);
      worker.onerror = (event) => onFailure(`A worker failed: ${event.message ?? "it could not be loaded"}`);
      return worker;
    });
  }

  get size() {
    return this.#workers.length;
  }

  /** Set the target that later sums are taken over. */
  setTarget(target) {
    for (const worker of this.#workers) worker.postMessage({ target });
  }

  /** Return {pull, push}: sums at the points over the target and over the particles; push is null where there are none. */
  async sums(spec, points, particles = null) {
    const n = points.x.length;
    const share = Math.ceil(n / this.size);
    const parts = this.#workers.map((worker, i) => {
      const slice = (values) => values.slice(i * share, (i + 1) * share);
      const id = this.#calls++;
      const done = new Promise((resolve) => this.#waiting.set(id, resolve));
      worker.postMessage({ id, spec, points: { x: slice(points.x), y: slice(points.y) }, particles });
      return done.finally(() => this.#waiting.delete(id));
    });
    const results = await Promise.all(parts);
    return { pull: joined(results.map((r) => r.pull)), push: particles === null ? null : joined(results.map((r) => r.push)) };
  }
}

function joined(parts) {
  const join = (name) => {
    const whole = new Float64Array(parts.reduce((n, part) => n + part[name].length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part[name], at);
      at += part[name].length;
    }
    return whole;
  };
  return { value: join("value"), gx: join("gx"), gy: join("gy") };
}
