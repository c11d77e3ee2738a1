// The visitor's target, of whatever kind: a toy, a text, a drawing, a picture, a table.
import { darkness, fromDensity, fromTable, toy } from "./targets.js";

/** Longest side of a picture that is looked at, as in mmdflow. */
const MOST_PIXELS = 512;

/** Return the density of a text in the page's own font. */
export function textDensity(text) {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  const font = '700 160px ui-sans-serif, system-ui, "DejaVu Sans", sans-serif';
  context.font = font;
  const { width, actualBoundingBoxAscent: up, actualBoundingBoxDescent: down } = context.measureText(text);
  const canvas = new OffscreenCanvas(Math.max(1, Math.ceil(width)), Math.max(1, Math.ceil(up + down)));
  const inked = canvas.getContext("2d");
  inked.font = font;
  inked.fillText(text, 0, up);
  return darkness(inked.getImageData(0, 0, canvas.width, canvas.height));
}

/** Read a file: {picture} with its pixels, or {table} with its text. */
export async function readFile(file) {
  if (/\.(csv|tsv|txt)$/i.test(file.name) || file.type.startsWith("text/")) return { name: file.name, table: await file.text() };
  const image = new Image();  // unlike createImageBitmap it reads SVG
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
  } catch {
    throw new Error("is no picture that the browser reads, and no table (.csv, .tsv, .txt)");
  } finally {
    URL.revokeObjectURL(image.src);
  }
  const { naturalWidth: width, naturalHeight: height } = image;
  const shrink = Math.min(1, MOST_PIXELS / Math.max(width, height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * shrink)), Math.max(1, Math.round(height * shrink)));
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return { name: file.name, picture: context.getImageData(0, 0, canvas.width, canvas.height) };
}

/** Return {points, note} of what the visitor aims at; throw where it holds nothing to aim at. */
export function aim(kind, { count, text, pen, file, invert }) {
  if (kind === "text") {
    const points = text.trim() ? fromDensity(textDensity(text.trim()), count) : null;
    return { points: wanted(points, "the text is empty: type some letters") };
  }
  if (kind === "drawing") return { points: wanted(fromDensity(pen, count), "draw on the picture") };
  if (kind !== "file") return { points: toy(kind, count) };
  if (file.table !== undefined) {
    const { points, columns, rows } = fromTable(file.table, count);
    return { points, note: `${file.name}: ${columns.join(" and ")}, ${points.x.length} of ${rows} rows` };
  }
  const points = fromDensity(darkness(file.picture, invert), count);
  return { points: wanted(points, `${file.name} holds no ${invert ? "light" : "dark"} pixel`), note: file.name };
}

function wanted(points, otherwise) {
  if (points === null) throw new Error(otherwise);
  return points;
}
