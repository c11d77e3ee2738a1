// Where particles go and where they start: clouds {x, y} from formulas, densities and tables. The toys are those of mmdflow.
import { random, shuffle } from "../common/random.js";

const cloud = (n, point) => {
  const x = new Float64Array(n), y = new Float64Array(n);
  for (let i = 0; i < n; i++) [x[i], y[i]] = point(i);
  return { x, y };
};

const polar = (radius, angle) => [radius * Math.cos(angle), radius * Math.sin(angle)];

/** Points of mmdflow's toy distributions, one at a time: generator g -> [x, y]. */
const TOYS = {
  rings: (g) => polar([0.6, 1.3, 2.0][g.integer(3)], 2 * Math.PI * g.uniform()),
  spirals: (g) => {
    const sign = 2 * g.integer(2) - 1;
    const angle = 3 * Math.PI * Math.sqrt(g.uniform());
    const [x, y] = polar((sign * angle) / 4, angle);
    return [x + 0.05 * g.normal(), y + 0.05 * g.normal()];
  },
  moons: (g) => {
    const upper = g.uniform() < 0.5;
    const [x, y] = polar(1, Math.PI * g.uniform());
    const noisy = (value) => value + 0.05 * g.normal();
    return [1.5 * (noisy(upper ? x : 1 - x) - 0.5), 1.5 * (noisy(upper ? y : 0.5 - y) - 0.25)];
  },
  checkerboard: (g) => {
    const column = g.integer(4);
    const row = 2 * g.integer(2) + (column % 2);
    return [1.7 * ((column + g.uniform()) / 2 - 1), 1.7 * ((row + g.uniform()) / 2 - 1)];
  },
  "eight-gaussians": (g) => {
    const [x, y] = polar(1.4, (Math.PI / 4) * g.integer(8));
    return [x + 0.1 * g.normal(), y + 0.1 * g.normal()];
  },
  pinwheel: (g) => {
    const x = 0.3 * g.normal() + 1, y = 0.1 * g.normal();
    const angle = ((2 * Math.PI) / 5) * g.integer(5) + 0.25 * Math.exp(x);
    return [1.3 * (Math.cos(angle) * x - Math.sin(angle) * y), 1.3 * (Math.sin(angle) * x + Math.cos(angle) * y)];
  },
};

/** Return n points of a toy distribution. */
export function toy(name, n, seed = 0) {
  const generator = random(seed);
  return cloud(n, () => TOYS[name](generator));
}

/** Where particles start. */
const SOURCES = {
  blob: (g) => [0.25 * g.normal(), 0.25 * g.normal()],
  square: (g) => [4 * g.uniform() - 2, 4 * g.uniform() - 2],
  ring: (g) => polar(2.1, 2 * Math.PI * g.uniform()),
  left: (g) => [-1.9 + 0.08 * g.normal(), 0.5 * g.normal()],
};

/** Return n particles at their start. */
export function source(name, n, seed = 1) {
  const generator = random(seed);
  return cloud(n, () => SOURCES[name](generator));
}

/**
 * Return n points of a picture taken as a density, whose longer side has length `extent` about 0 (4 as in mmdflow): at even steps
 * of its mass, each anywhere in its pixel. null where there is no mass.
 */
export function fromDensity({ density, width, height, extent = 4 }, n, seed = 0) {
  const generator = random(seed);
  const upTo = new Float64Array(density.length);
  let mass = 0;
  for (let i = 0; i < density.length; i++) upTo[i] = mass += density[i];
  if (!(mass > 0)) return null;
  let pixel = 0;
  const scale = extent / Math.max(width, height);
  const points = cloud(n, (i) => {
    const at = ((i + generator.uniform()) / n) * mass;
    while (upTo[pixel] <= at && pixel < density.length - 1) pixel++;
    const x = (pixel % width) + generator.uniform();
    const y = Math.floor(pixel / width) + generator.uniform();
    return [(x - width / 2) * scale, (height / 2 - y) * scale];
  });
  shuffle(generator, points.x, points.y);  // in the order of rows, a part of them would be the upper part
  return points;
}

/** Return the darkness of RGBA pixels on white, or with `invert` their lightness, in [0, 1]; what is fainter than 0.02 is dropped. */
export function darkness({ data, width, height }, invert = false) {
  const density = new Float64Array(width * height);
  for (let i = 0; i < density.length; i++) {
    const grey = 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
    const dark = (data[4 * i + 3] / 255) * (1 - grey / 255);
    const value = invert ? 1 - dark : dark;
    density[i] = value < 0.02 ? 0 : value;
  }
  return { density, width, height };
}

/**
 * Return {points, columns, rows} of a table of text: its first two columns of numbers, centred, with the longer side of what
 * 98 percent of the points span scaled to [-2, 2]. At most `most` rows, drawn at random. Commas, semicolons, tabs or blanks part
 * the columns; a first line without numbers is a header.
 */
export function fromTable(text, most, seed = 0) {
  const lines = text.split(/\r?\n/).map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
  if (!lines.length) throw new Error("the table is empty: must have rows of at least two numbers");
  const delimiter = [",", ";", "\t"].find((mark) => lines[0].includes(mark)) ?? /\s+/;
  const cells = lines.map((line) => line.split(delimiter).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")));
  const ragged = cells.findIndex((row) => row.length !== cells[0].length);
  if (ragged >= 0) throw new Error(`row ${ragged + 1} of the table has ${cells[ragged].length} columns: must have ${cells[0].length}, as the first row`);
  const isNumber = (cell) => cell !== "" && Number.isFinite(Number(cell));
  const header = cells[0].some(isNumber) ? null : cells.shift();
  const numeric = cells.length ? cells[0].map((_, c) => c).filter((c) => cells.every((row) => isNumber(row[c]))) : [];
  if (numeric.length < 2) throw new Error(`the table has ${numeric.length} columns of numbers in every row: must have at least 2`);
  if (cells.length < 2) throw new Error("the table has 1 row: must have at least 2");
  const [first, second] = numeric;
  const x = Float64Array.from(cells, (row) => Number(row[first])), y = Float64Array.from(cells, (row) => Number(row[second]));
  shuffle(random(seed), x, y);
  const names = [first, second].map((c) => header?.[c] || `column ${c + 1}`);
  return { points: fitted({ x: x.slice(0, most), y: y.slice(0, most) }), columns: names, rows: cells.length };
}

/** Centre a cloud and scale it so that 98 percent of its longer side span [-2, 2]. */
function fitted({ x, y }) {
  const range = (values) => {
    const sorted = values.slice().sort();
    return [sorted[Math.floor(0.01 * (sorted.length - 1))], sorted[Math.ceil(0.99 * (sorted.length - 1))]];
  };
  const [[left, right], [low, high]] = [range(x), range(y)];
  const scale = 4 / (Math.max(right - left, high - low) || 1);
  return { x: x.map((value) => (value - (left + right) / 2) * scale), y: y.map((value) => (value - (low + high) / 2) * scale) };
}
