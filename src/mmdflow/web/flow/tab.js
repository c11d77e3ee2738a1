// The first page: controls, loop and read-outs of the particle flow.
import { drawCurve } from "../common/canvas.js";
import { $, Slider, fill, nextFrame, save, short } from "../common/controls.js";
import { aim, readFile } from "./aims.js";
import { FIELDS } from "./particles.js";
import { SumPool } from "./pool.js";
import { pythonCode } from "./python.js";
import { Simulation } from "./simulation.js";
import { PEN, Stage } from "./stage.js";
import { KERNELS } from "./sums.js";
import { darkness } from "./targets.js";

/** What the page shows by itself until the visitor takes over, and for how many milliseconds each. */
const TOUR = ["text", "rings", "spirals", "checkerboard", "pinwheel"], TOUR_PAUSE = 9000;
/** Particles farther out than this are lost. */
const LOST = 1e5;
/** Steps are at least so many milliseconds apart: 60 a second on quick screens too. */
const APART = 15;

export class FlowTab {
  constructor(onFailure) {
    this.simulation = new Simulation(new SumPool(onFailure));
    this.stage = new Stage($("heat"), $("aim"), $("stage"));
    this.playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.touring = this.playing;
    this.auto = { width: true, step: true };
    this.visible = true;
    this.dirty = true;
    this.stamps = [];
    this.file = null;
    this.#wireControls();
    this.#wireTarget();
    this.#wireButtons();
    this.#wireTour();
    new ResizeObserver(() => this.#resize()).observe($("stage"));
    this.#resize();
    this.#retarget();
    this.restart();
    this.#draw();
    this.#run();
  }

  /** Show or hide; hidden flows rest. */
  show(visible) {
    this.visible = visible;
    this.dirty = true;
  }

  recolour() {
    this.stage.recolour();
    this.dirty = true;
  }

  restart() {
    this.simulation.restart($("source").value, this.count.value);
    this.stage.reset();
    this.stamps = [];
    this.#readOut(null);
    this.#showCode();
    this.#look();
    this.#say("");
    this.dirty = true;
  }

  #resize() {
    const { x, y } = this.stage.view();
    if (Number.isFinite(x) && x > 0) this.simulation.setView(x, y);
    this.dirty = true;
    this.#look();
  }

  #wireControls() {
    fill($("kernel"), Object.fromEntries(Object.entries(KERNELS).map(([name, { label }]) => [name, label])));
    fill($("field"), FIELDS);
    this.width = new Slider("width", () => this.#manual("width"));
    this.step = new Slider("step", () => this.#manual("step"));
    this.momentum = new Slider("momentum", () => this.#manual("step"));
    this.noise = new Slider("noise", () => this.#change());
    this.count = new Slider("count", () => {
      this.#retarget();
      this.restart();
    });
    for (const id of ["kernel", "field"]) $(id).addEventListener("change", () => this.#change());
    for (const name of ["width", "step"]) {
      $(`${name}-auto`).addEventListener("click", () => {
        this.auto[name] = true;
        this.#change();
      });
    }
    for (const name of ["witness", "arrows", "target"]) {
      $(`show-${name}`).addEventListener("change", (event) => {
        this.stage.shown[name] = event.target.checked;
        this.dirty = true;
        this.#look();
      });
    }
    $("source").addEventListener("change", () => this.restart());
    document.querySelector("#panel-flow form").addEventListener("submit", (event) => event.preventDefault());
  }

  #manual(name) {
    this.auto[name] = false;
    this.#change();
  }

  /** Take the settings off the controls; where they are automatic, set them by the rules. */
  #change() {
    const kernel = $("kernel").value, { width, drifts, formula } = KERNELS[kernel];
    const drift = $("field").querySelector('option[value="mean-shift"]');
    drift.disabled = !drifts;
    drift.textContent = drifts ? FIELDS["mean-shift"] : `${FIELDS["mean-shift"]} (Gaussian, Laplace)`;
    if (!drifts) $("field").value = "mmd";
    const field = $("field").value;
    $("formula").textContent = `k(x, y) = ${formula}`;
    $("width-field").hidden = width === null;
    if (this.auto.width && width !== null) this.width.value = this.simulation.defaultWidth;
    this.simulation.changeSettings({ kernel, field, width: this.width.value, noise: this.noise.value });
    if (this.auto.step) {
      const usual = this.simulation.usual();
      this.step.value = usual.step;
      this.momentum.value = usual.momentum;
    }
    this.simulation.changeSettings({ step: this.step.value, momentum: this.momentum.value });
    for (const name of ["width", "step"]) $(`${name}-auto`).setAttribute("aria-pressed", String(this.auto[name]));
    const what = field === "mmd" ? "½ MMD²" : "½ MMD² (watched; a drift has no F)";
    $("value-name").textContent = field === "mmd" ? "½ MMD²" : "½ MMD², watched";
    $("curve-name").textContent = `${what} over the steps`;
    this.#say("");
    this.#showCode();
    this.#look();
  }

  #wireTarget() {
    $("target").addEventListener("change", () => this.#retarget());
    $("text").addEventListener("input", () => this.#retarget());
    $("invert").addEventListener("change", () => this.#retarget());
    $("open").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", () => this.#take($("file").files[0]));
    this.stage.wirePen(
      () => {
        $("hint").classList.add("gone");
        if ($("target").value !== "drawing") this.stage.clearPen();
        $("target").value = "drawing";
      },
      () => {
        if (!this.drawn) requestAnimationFrame(() => this.#retarget());
        this.drawn = true;
      },
    );
    const stage = document.querySelector("#panel-flow .stage");
    document.addEventListener("dragover", (event) => {  // anywhere: else the browser leaves the page for the file
      event.preventDefault();
      stage.classList.add("dropping");
    });
    document.addEventListener("dragleave", () => stage.classList.remove("dropping"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      stage.classList.remove("dropping");
      if (this.visible) this.#take(event.dataTransfer.files[0]);
    });
  }

  async #take(file) {
    if (!file) return;
    const before = $("target").value;
    try {
      this.file = await readFile(file);
      const option = $("target").querySelector('option[value="file"]');
      option.hidden = false;
      option.textContent = file.name;
      $("target").value = "file";
      $("invert").checked = false;
      if (!this.#retarget()) $("target").value = before;
    } catch (error) {
      this.#say(`${file.name} ${error.message}`, true);
    }
    $("file").value = "";  // the same file may be chosen again
  }

  /** Aim at what the controls say; return whether there is something to aim at. */
  #retarget() {
    this.drawn = false;
    const kind = $("target").value;
    $("text-field").hidden = kind !== "text";
    $("invert-field").hidden = !(kind === "file" && this.file.picture);
    $("clear").hidden = kind !== "drawing";
    const pen = kind === "drawing" ? { ...darkness(this.stage.penPixels()), extent: PEN.extent } : null;
    try {
      const { points, note } = aim(kind, { count: this.count.value, text: $("text").value, pen, file: this.file, invert: $("invert").checked });
      this.simulation.setTarget(points);
      this.#change();
      this.stage.reset();
      this.#say(note ?? "");
      this.dirty = true;
      return true;
    } catch (error) {
      this.#say(error.message, kind !== "drawing");
      return false;
    }
  }

  #wireButtons() {
    this.#showPlaying();
    $("pause").addEventListener("click", () => {
      this.playing = !this.playing;
      this.#showPlaying();
      this.#say("");
    });
    $("restart").addEventListener("click", () => this.restart());
    $("clear").addEventListener("click", () => {
      this.stage.clearPen();
      this.#retarget();
    });
    $("copy").addEventListener("click", async () => {
      await navigator.clipboard.writeText($("python").textContent).then(
        () => ($("copy").textContent = "Copied"),
        () => ($("copy").textContent = "Not allowed here"),
      );
      setTimeout(() => ($("copy").textContent = "Copy"), 1500);
    });
    $("save-target").addEventListener("click", () => {
      const { x, y } = this.simulation.target;
      save("target.csv", "x,y\n" + Array.from(x, (value, i) => `${value.toFixed(5)},${y[i].toFixed(5)}\n`).join(""));
    });
  }

  #showPlaying() {
    $("pause").textContent = this.playing ? "Pause" : "Play";
  }

  #wireTour() {
    const stop = () => (this.touring = false);
    for (const name of ["pointerdown", "keydown", "input"]) $("panel-flow").addEventListener(name, stop);
    setInterval(() => {
      if (!this.touring || !this.playing || !this.visible || document.hidden) return;
      $("target").value = TOUR[(TOUR.indexOf($("target").value) + 1) % TOUR.length];
      this.#retarget();
    }, TOUR_PAUSE);
  }

  #say(message, failed = false) {
    if ($("status").textContent !== message) $("status").textContent = message;  // it is read aloud when it changes
    $("status").classList.toggle("failed", failed);
  }

  /** Take the whole field anew where a rest would leave an old one on the picture. */
  async #look() {
    if (this.playing || !this.simulation.particles) return;
    await this.simulation.look();
    this.dirty = true;
  }

  /** Draw at the next frame what has changed. */
  async #draw() {
    for (;;) {
      await nextFrame();
      if (!this.visible || !this.dirty) continue;
      this.stage.draw(this.simulation);
      this.dirty = false;
    }
  }

  /** Step while there is play; a step that took longer than a frame is followed at once, and drawn meanwhile. */
  async #run() {
    let before = 0;
    for (;;) {
      if (!this.playing || !this.visible || document.hidden || performance.now() - before < APART) {
        await nextFrame();
        continue;
      }
      before = performance.now();
      const result = await this.simulation.step({ withGrid: this.stage.shown.witness || this.stage.shown.arrows });
      this.dirty = true;
      if (result) this.#after(result);
    }
  }

  #after({ value, stranded }) {
    const { particles } = this.simulation;
    const now = performance.now();
    this.stamps = [...this.stamps.filter((stamp) => now - stamp < 2000), now];
    if (!particles.within(LOST)) {
      this.playing = false;
      this.#showPlaying();
      this.restart();
      this.#say("The particles flew apart: the step is too large. They are back at the start.", true);
      return;
    }
    if (stranded) this.#say("Some particles feel no pull: the bandwidth is too small to reach the target.", true);
    else if (this.stranded) this.#say("");
    this.stranded = stranded;
    if (particles.steps % 5 === 0) this.#readOut(value);
    if (particles.steps % 60 === 0) this.#showCode();
  }

  #readOut(value) {
    const { particles, values } = this.simulation;
    if (value !== null) $("value").textContent = value.toExponential(2);
    else if (!particles.steps) $("value").textContent = "–";
    $("steps").textContent = particles.steps;
    const { length } = this.stamps;
    const seconds = (this.stamps.at(-1) - this.stamps[0]) / 1000;
    $("rate").textContent = length > 2 ? ((length - 1) / seconds).toFixed(0) : "–";
    drawCurve($("curve"), values.map((kept) => ({ at: kept.step, value: kept.value })));
  }

  #showCode() {
    const kind = $("target").value;
    const toy = ["text", "drawing", "file"].includes(kind) ? null : kind;
    const steps = this.simulation.particles?.steps ?? 0;
    const code = pythonCode(this.simulation.settings, { toy, start: $("source").value, count: this.count.value, steps });
    if ($("python").textContent !== code) $("python").textContent = code;
  }
}
