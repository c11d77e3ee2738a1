// The picture of the flow: witness heat map, target, arrows, particles; and the visitor's pen.
import { fit } from "../common/canvas.js";
import { colours, css, mix } from "../common/theme.js";
import { GRID } from "./simulation.js";

/** What is seen at least: x and y in [-REACH, REACH]. */
const REACH = 2.3;
/** The heat map goes this part of the way to the newest field at every frame. */
const FOLLOW = 0.25;
/** Colours of particles, by their speed. */
const SHADES = 12;
/** The pen draws on pixels of its own: columns over x in [-2 REACH, 2 REACH], rows over y in [-REACH, REACH]. */
export const PEN = { columns: 640, rows: 320, stroke: 12, extent: 4 * REACH };

/** Three canvases over each other: the witness, a pixel a cell of the grid; the target, drawn when it changes; the particles. */
export class Stage {
  constructor(heat, aim, canvas) {
    [this.heat, this.aim, this.canvas] = [heat, aim, canvas];
    [heat.width, heat.height] = [GRID.columns, GRID.rows];
    this.shown = { witness: true, arrows: false, target: true };
    this.pen = new OffscreenCanvas(PEN.columns, PEN.rows);
    this.smooth = new Float64Array(GRID.columns * GRID.rows);
    this.reset();
  }

  /** Return half of what is seen, {x, y}, and the pixels of a unit. */
  view() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const unit = Math.min(width, height) / (2 * REACH);
    return { unit, x: width / (2 * unit), y: height / (2 * unit) };
  }

  /** Make all that depends on the theme anew. */
  recolour() {
    this.colours = colours("slow", "middle", "fast", "target", "above", "below", "arrow");
    const { slow, middle, fast } = this.colours;
    const shade = (t) => (t < 0.5 ? mix(slow, middle, 2 * t) : mix(middle, fast, 2 * t - 1));
    this.dots = Array.from({ length: SHADES }, (_, i) => dot(css(shade(i / (SHADES - 1)))));
  }

  /** Forget how strong the field and how fast the particles were. */
  reset() {
    this.strongest = 0;
    this.fastest = 0;
  }

  draw(simulation) {
    const place = fit(this.canvas);
    if (!place) return;
    if (!this.dots) this.recolour();
    const { context, width, height } = place;
    const { unit, x: halfX, y: halfY } = this.view();
    const toX = (x) => (x + halfX) * unit, toY = (y) => (halfY - y) * unit;
    this.#drawHeat(simulation.grid.f);
    this.#drawTarget(simulation.target, toX, toY, `${width} ${height}`);
    context.clearRect(0, 0, width, height);
    if (this.shown.arrows) this.#drawArrows(context, simulation.grid, toX, toY);
    this.#drawParticles(context, simulation, toX, toY, unit);
  }

  #drawHeat(field) {
    const f = this.smooth;
    let largest = 0;
    field.forEach((value, i) => {
      f[i] += FOLLOW * (value - f[i]);
      largest = Math.max(largest, Math.abs(f[i]));
    });
    this.strongest = Math.max(largest, 0.995 * this.strongest);  // so that colours fade as the field does
    const image = new ImageData(GRID.columns, GRID.rows);
    const { above, below } = this.colours;
    if (this.shown.witness && this.strongest) {
      f.forEach((value, i) => {
        const strength = Math.min(Math.abs(value) / this.strongest, 1) ** 0.7;
        image.data.set([...(value > 0 ? above : below), 150 * strength], 4 * i);
      });
    }
    this.heat.getContext("2d").putImageData(image, 0, 0);
  }

  #drawTarget(target, toX, toY, size) {
    const drawn = [target, size, this.colours, this.shown.target];
    if (this.drawn?.every((part, i) => part === drawn[i])) return;
    this.drawn = drawn;
    const { context, width, height } = fit(this.aim);
    context.clearRect(0, 0, width, height);
    if (!this.shown.target) return;
    context.fillStyle = css(this.colours.target, 0.45);
    for (let i = 0; i < target.x.length; i++) context.fillRect(toX(target.x[i]) - 0.75, toY(target.y[i]) - 0.75, 1.5, 1.5);
  }

  #drawArrows(context, { x, y, vx, vy }, toX, toY) {
    const lengths = vx.map((value, i) => Math.hypot(value, vy[i]));
    const longest = lengths.reduce((a, b) => Math.max(a, b), 0);
    if (!longest) return;
    context.strokeStyle = css(this.colours.arrow, 0.75);
    context.lineWidth = 1.2;
    context.beginPath();
    for (let row = 0; row < GRID.rows; row += 2) {
      for (let column = 0; column < GRID.columns; column += 2) {
        const i = row * GRID.columns + column;
        const scale = 22 * Math.sqrt(lengths[i] / longest) / (lengths[i] || 1);  // roots, so that slow parts are seen
        arrow(context, toX(x[i]), toY(y[i]), vx[i] * scale, -vy[i] * scale);
      }
    }
    context.stroke();
  }

  #drawParticles(context, { particles }, toX, toY, unit) {
    const { x, y, px, py, count } = particles;
    const speeds = px.map((value, i) => Math.hypot(value, py[i]));
    this.fastest = Math.max(speeds.reduce((a, b) => Math.max(a, b), 0), 0.99 * this.fastest) || 1;
    const size = (unit / 60) ** 0.3 * (count > 2000 ? 3.4 : count > 600 ? 4.4 : 6);
    for (let i = 0; i < count; i++) {
      const shade = Math.min(SHADES - 1, Math.floor(SHADES * Math.sqrt(speeds[i] / this.fastest)));
      context.drawImage(this.dots[shade], toX(x[i]) - size / 2, toY(y[i]) - size / 2, size, size);
    }
  }

  /** Return the pen's pixels, an ImageData. */
  penPixels() {
    return this.#penContext().getImageData(0, 0, PEN.columns, PEN.rows);
  }

  #penContext() {
    return this.pen.getContext("2d", { willReadFrequently: true });
  }

  /** Call `onStart` when the visitor begins a stroke, and `onChange` while it grows. */
  wirePen(onStart, onChange) {
    const context = this.#penContext();
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = PEN.stroke;
    let last = null;
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const { unit, x, y } = this.view();
      const scale = PEN.columns / PEN.extent;
      return [((event.clientX - box.left) / unit - x + 2 * REACH) * scale, ((event.clientY - box.top) / unit - y + REACH) * scale];
    };
    const stroke = (to) => {
      context.beginPath();
      context.moveTo(...last);
      context.lineTo(...to);
      context.stroke();
      last = to;
      onChange();
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      onStart();
      last = at(event);
      stroke(last);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (last) stroke(at(event));
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => (last = null));
  }

  clearPen() {
    this.#penContext().clearRect(0, 0, PEN.columns, PEN.rows);
  }
}

/** Return a round dot of that colour to stamp. */
function dot(colour) {
  const size = 16, canvas = new OffscreenCanvas(size, size), context = canvas.getContext("2d");
  context.fillStyle = colour;
  context.beginPath();
  context.arc(size / 2, size / 2, size / 2 - 1, 0, 2 * Math.PI);
  context.fill();
  return canvas.transferToImageBitmap();
}

function arrow(context, x, y, dx, dy) {
  const length = Math.hypot(dx, dy);
  if (length < 2) return;
  const [ux, uy] = [dx / length, dy / length], head = Math.min(4, length / 2);
  context.moveTo(x, y);
  context.lineTo(x + dx, y + dy);
  context.moveTo(x + dx - head * (ux + 0.6 * uy), y + dy - head * (uy - 0.6 * ux));
  context.lineTo(x + dx, y + dy);
  context.lineTo(x + dx - head * (ux - 0.6 * uy), y + dy - head * (uy + 0.6 * ux));
}
