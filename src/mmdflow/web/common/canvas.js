// Canvases as sharp as the screen, and a curve.
import { colours, css } from "./theme.js";

/** Fit a canvas to its place on the page; return {context, width, height} in CSS pixels, or null while it is not seen. */
export function fit(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return null;
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height, ratio };
}

/** Draw positive values over their positions, on a logarithmic axis with a line a decade. */
export function drawCurve(canvas, points) {
  const place = fit(canvas);
  if (!place) return;
  const { context, width, height } = place;
  const { muted, line, accent } = colours("muted", "line", "accent");
  context.clearRect(0, 0, width, height);
  const shown = points.filter((point) => point.value > 0);
  if (shown.length < 2) return;
  const logs = shown.map((point) => Math.log10(point.value));
  const low = Math.floor(Math.min(...logs)), high = Math.max(Math.ceil(Math.max(...logs)), low + 1);
  const first = shown[0].at, last = shown.at(-1).at;
  const left = 34, x = (at) => left + ((at - first) / (last - first || 1)) * (width - left - 6);
  const y = (log) => 8 + ((high - log) / (high - low)) * (height - 18);
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (let decade = low; decade <= high; decade++) {
    context.strokeStyle = css(line);
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(left, y(decade));
    context.lineTo(width, y(decade));
    context.stroke();
    context.fillStyle = css(muted);
    context.fillText(decade === 0 ? "1" : `1e${decade}`, left - 6, y(decade));
  }
  context.strokeStyle = css(accent);
  context.lineWidth = 2;
  context.lineJoin = "round";
  context.beginPath();
  logs.forEach((log, i) => context.lineTo(x(shown[i].at), y(log)));
  context.stroke();
}
