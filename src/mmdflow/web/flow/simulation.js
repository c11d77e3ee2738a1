// The running flow: a target, particles, settings, and one step after another; what is drawn of the field between them.
import { random } from "../common/random.js";
import { Particles, defaultWidth, energy, spread, sumSpec, usualStep, velocity } from "./particles.js";
import { source } from "./targets.js";

/** The field is drawn on a grid of so many columns and rows, taken anew at every so many steps. */
export const GRID = { columns: 48, rows: 32, every: 6 };
/** With noise, F costs sums of its own: it is taken at every so many steps. */
const EVERY = 8;
/** Of the values kept beyond this, every other one goes. */
const MOST_VALUES = 1200;
/** The page takes this part of mmdflow's usual step, so that one can watch. */
export const SLOWLY = 0.25;

export class Simulation {
  constructor(pool) {
    this.pool = pool;
    this.settings = { field: "mmd", kernel: "riesz", width: 0.3, step: 0.05, momentum: 0.9, noise: 0 };
    this.generator = random(7);
    this.values = [];  // {step, value}
    this.changes = 0;  // of what values depend on: target and kernel
    const cells = GRID.columns * GRID.rows;
    this.grid = { x: new Float64Array(cells), y: new Float64Array(cells), f: new Float64Array(cells), vx: new Float64Array(cells), vy: new Float64Array(cells) };
  }

  setTarget(target) {
    this.target = target;
    this.changes++;
    this.values = [];
    this.pool.setTarget(target);
    this.targetSelf = null;
    this.spread = spread(target);
    this.width = null;
  }

  /** mmdflow's default width for the target. */
  get defaultWidth() {
    this.width ??= defaultWidth(this.target);
    return this.width;
  }

  /** Put the particles at their start. */
  restart(start, count) {
    this.particles = new Particles(source(start, count));
    this.values = [];
  }

  /** Lay the grid over what is seen: x in [-halfWidth, halfWidth], y in [-halfHeight, halfHeight]. */
  setView(halfWidth, halfHeight) {
    for (let i = 0; i < GRID.rows; i++) {
      for (let j = 0; j < GRID.columns; j++) {
        this.grid.x[i * GRID.columns + j] = halfWidth * ((2 * (j + 0.5)) / GRID.columns - 1);
        this.grid.y[i * GRID.columns + j] = halfHeight * (1 - (2 * (i + 0.5)) / GRID.rows);
      }
    }
  }

  usual() {
    const { size, momentum } = usualStep(this.settings, this.spread);
    return { step: SLOWLY * size, momentum };
  }

  changeSettings(changes) {
    const before = this.settings;
    this.settings = { ...before, ...changes };
    if (["kernel", "width", "field"].some((name) => this.settings[name] !== before[name])) {
      this.targetSelf = null;
      this.changes++;
      this.values = [];
    }
  }

  /** Take a step; return {value, stranded}, with null for a value that was not taken; or null if particles started anew. */
  async step({ withGrid }) {
    const { particles, settings } = this;
    const spec = sumSpec(settings);
    const { changes } = this;
    // while the visitor draws or turns the kernel's knobs, particles go on; what was measured then is of the past
    const current = () => changes === this.changes;
    if (this.targetSelf === null) {
      const self = (await this.pool.sums(spec, this.target)).pull.value;
      if (current()) this.targetSelf = self.reduce((a, b) => a + b, 0) / self.length;
    }
    const at = particles.points(settings.noise, this.generator);
    const grid = withGrid && particles.steps % GRID.every === 0 ? this.grid : { x: [], y: [] };
    const places = { x: particles.x, y: particles.y };
    const { pull, push } = await this.pool.sums(spec, { x: concat(at.x, grid.x), y: concat(at.y, grid.y) }, places);
    let value = null;
    if (!settings.noise) value = energy(push, pull, this.targetSelf, particles.count);
    else if (particles.steps % EVERY === 0) {
      const plain = await this.pool.sums(spec, places, places);
      value = energy(plain.push, plain.pull, this.targetSelf);
    }
    if (particles !== this.particles) return null;  // they have started anew
    const v = velocity(settings, push, pull, { particles: particles.count, shifted: settings.noise > 0 });
    if (grid === this.grid && current()) this.#keepField(particles.count, v, push, pull);
    particles.advance(v, settings);
    if (!current()) value = null;
    if (value !== null) this.#remember(value);
    return { value, stranded: v.stranded };
  }

  /** Take the field on the whole grid, without a step. */
  async look() {
    const { particles, settings, changes } = this;
    const { pull, push } = await this.pool.sums(sumSpec(settings), this.grid, { x: particles.x, y: particles.y });
    if (changes !== this.changes || particles !== this.particles) return;
    this.#keepField(0, velocity(settings, push, pull, { particles: 0 }), push, pull);
  }

  #remember(value) {
    this.values.push({ step: this.particles.steps, value });
    if (this.values.length > MOST_VALUES) this.values = this.values.filter((_, i) => i % 2 === 0 || i === MOST_VALUES);
  }

  /** Keep the witness and the velocity on the grid, which are those of the points from `first` on. */
  #keepField(first, v, push, pull) {
    for (let i = 0; i < this.grid.f.length; i++) {
      this.grid.f[i] = push.value[first + i] - pull.value[first + i];
      this.grid.vx[i] = v.x[first + i];
      this.grid.vy[i] = v.y[first + i];
    }
  }
}

function concat(a, b) {
  const whole = new Float64Array(a.length + b.length);
  whole.set(a);
  whole.set(b, a.length);
  return whole;
}
