// The second page: the digits model, level by level.
import { drawCurve, fit } from "../common/canvas.js";
import { $, Slider } from "../common/controls.js";
import { random } from "../common/random.js";
import { colours, css, mix } from "../common/theme.js";

const SIDE = 8, DIM = SIDE * SIDE;
/** At least so many milliseconds a level, so that one can watch. */
const APART = 40;

export class DigitsTab {
  constructor(onFailure) {
    this.onFailure = onFailure;
    this.frames = [];
    this.run = 0;
    this.playing = true;
    this.guidance = new Slider("guidance", () => this.restart());
    this.levels = new Slider("levels", () => this.restart());
    this.seed = new Slider("seed", () => this.restart());
    this.scrub = new Slider("scrub", () => {
      this.#play(false);
      this.#draw();
    }, (level) => `${level} of ${$("scrub").max}`);
    for (const id of ["class", "samples", "sampler"]) $(id).addEventListener("change", () => this.restart());
    $("sample").addEventListener("click", () => {
      this.seed.value = (this.seed.value + 1) % 100;
      this.restart();
    });
    $("digits-pause").addEventListener("click", () => this.#play(!this.playing));
    $("one-level").addEventListener("click", () => {
      this.#play(false);
      this.#next();
    });
    document.querySelector("#panel-digits form").addEventListener("submit", (event) => event.preventDefault());
    new ResizeObserver(() => this.#draw()).observe($("digits"));
  }

  /** Load the model when the page is seen for the first time. */
  show(visible) {
    if (!visible || this.worker) return;
    $("digits-status").textContent = "Loading the model";
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onerror = (event) => this.onFailure(`The sampler failed: ${event.message ?? "it could not be loaded"}`);
    this.worker.onmessage = ({ data }) => this.#hear(data);
    this.worker.postMessage({ type: "load", folder: new URL("../model/", import.meta.url).href });
  }

  recolour() {
    this.#draw();
  }

  restart() {
    if (!this.ready) return;
    const count = Number($("samples").value), generator = random(1000 + this.seed.value);
    const noise = Float64Array.from({ length: count * DIM }, () => generator.normal());
    const chosen = $("class").value, classes = chosen !== "any";
    $("guidance-field").hidden = !classes;
    const labels = classes ? Array.from({ length: count }, (_, i) => (chosen === "every" ? i % 10 : Number(chosen))) : null;
    const options = { labels, guidance: classes ? this.guidance.value : 0, sampler: $("sampler").value, levels: this.levels.value };
    this.run++;
    this.frames = [{ done: 0, total: null, t: 1, value: null, particles: noise }];
    this.count = count;
    this.worker.postMessage({ type: "start", run: this.run, noise, count, options });
    this.#play(true);
    this.#follow();
  }

  #play(playing) {
    this.playing = playing;
    $("digits-pause").textContent = playing ? "Pause" : this.#finished ? "Replay" : "Play";
    if (playing && this.#finished && this.frames.length > 1) {
      this.restart();
      return;
    }
    if (playing) this.#next();
  }

  get #finished() {
    const last = this.frames.at(-1);
    return Boolean(last) && last.done === last.total;
  }

  #next() {
    if (this.asked === this.run || this.#finished) return;  // one request at a time
    this.asked = this.run;
    this.since = performance.now();
    this.worker.postMessage({ type: "next", run: this.run });
  }

  #hear(data) {
    if (data.type === "failed") this.onFailure(`The digits model: ${data.message}`);
    if (data.type === "loaded") {
      this.ready = true;
      $("digits-status").textContent = "";
      this.restart();
    }
    if (data.type !== "frame" || data.run !== this.run) return;
    this.asked = null;
    this.frames.push(data.frame);
    this.#follow();
    if (this.#finished) {
      this.playing = false;
      $("digits-pause").textContent = "Replay";
    } else if (this.playing) setTimeout(() => this.playing && this.#next(), Math.max(0, APART - (performance.now() - this.since)));
  }

  /** Show the newest level. */
  #follow() {
    const last = this.frames.at(-1);
    this.scrub.input.max = last.total ?? this.levels.value;
    this.scrub.value = last.done;
    this.#draw();
  }

  #draw() {
    const place = fit($("digits"));
    const frame = this.frames[Math.min(this.scrub.value, this.frames.length - 1)];
    if (!place || !frame) return;
    $("level").textContent = frame.t.toFixed(2);
    $("mismatch").textContent = frame.value === null ? "–" : frame.value.toExponential(2);
    this.#drawDigits(place, frame.particles);
    drawCurve($("digits-curve"), this.frames.filter((f) => f.value !== null).map((f) => ({ at: f.done, value: f.value })));
  }

  #drawDigits({ context, width, height }, particles) {
    const { stage, card, ink } = colours("stage", "card", "ink");
    const count = this.count, columns = best(count, width, height), rows = count / columns;
    const cell = Math.min(width / columns, height / rows) * 0.96, gap = 0.1 * cell;
    const left = (width - columns * cell) / 2, top = (height - rows * cell) / 2;
    const tile = new OffscreenCanvas(SIDE, SIDE), pixels = new ImageData(SIDE, SIDE), tiles = tile.getContext("2d");
    context.fillStyle = css(stage);
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    for (let i = 0; i < count; i++) {
      for (let e = 0; e < DIM; e++) {
        const dark = Math.min(Math.max((particles[i * DIM + e] + 1) / 2, 0), 1);
        pixels.data.set([...mix(card, ink, dark), 255], 4 * e);
      }
      tiles.putImageData(pixels, 0, 0);
      const x = left + (i % columns) * cell + gap / 2, y = top + Math.floor(i / columns) * cell + gap / 2;
      context.save();
      context.beginPath();
      context.roundRect(x, y, cell - gap, cell - gap, gap);
      context.clip();
      context.drawImage(tile, x, y, cell - gap, cell - gap);
      context.restore();
    }
  }
}

/** Return the number of columns that makes the cells of a full grid largest. */
function best(count, width, height) {
  const size = (columns) => Math.min(width / columns, (height * columns) / count);
  const full = Array.from({ length: count }, (_, i) => i + 1).filter((columns) => count % columns === 0);
  return full.reduce((a, b) => (size(b) > size(a) ? b : a));
}
