// The page's numbers against the library's (vectors.json, of tools/web_vectors.py), and its quick sums against its plain ones.
// node --test tests/web/numerics.test.mjs
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Pipeline } from "../../src/mmdflow/web/digits/sampler.js";
import { random } from "../../src/mmdflow/web/common/random.js";
import * as flow from "../../src/mmdflow/web/flow/particles.js";
import { compiledSums } from "../../src/mmdflow/web/flow/simd.js";
import { KERNELS, atZero, sums } from "../../src/mmdflow/web/flow/sums.js";
import * as targets from "../../src/mmdflow/web/flow/targets.js";

const read = (path) => readFileSync(new URL(path, import.meta.url));
const { particles, digits } = JSON.parse(read("vectors.json"));
const TOLERANCE = 1e-5;
const quick = compiledSums();
const BACKENDS = { plain: sums, compiled: quick };

const cloud = (rows) => ({ x: Float64Array.from(rows, (r) => r[0]), y: Float64Array.from(rows, (r) => r[1]) });
const rowsOf = ({ x, y }) => Array.from(x, (value, i) => [value, y[i]]);

/** Assert that nested numbers agree to a tolerance, absolute and relative. */
function close(actual, expected, tolerance = TOLERANCE) {
  const [a, b] = [actual, expected].map((value) => [value].flat(3));
  assert.equal(a.length, b.length);
  b.forEach((value, i) => {
    const error = Math.abs(a[i] - value);
    assert.ok(error <= tolerance * Math.max(1, Math.abs(value)), `entry ${i}: ${a[i]} for ${value}`);
  });
}

const [x, y, z] = [particles.x, particles.y, particles.z].map(cloud);

test("the browser of the tests compiles the sums", () => assert.ok(quick));

for (const [backend, sum] of Object.entries(BACKENDS)) {
  for (const expected of particles.kernels) {
    const { kernel, width } = expected;
    const settings = { field: "mmd", kernel, width };
    const spec = flow.sumSpec(settings);

    test(`${kernel}, ${backend}: F, the witness and its gradient`, () => {
      const self = sum(spec, y, y).value.reduce((a, b) => a + b, 0) / particles.y.length;
      close(flow.energy(sum(spec, x, x), sum(spec, x, y), self), expected.value);
      const [push, pull] = [sum(spec, z, x), sum(spec, z, y)];
      close(Array.from(push.value, (v, i) => v - pull.value[i]), expected.witness);
      const v = flow.velocity(settings, push, pull, { particles: particles.x.length });
      close(rowsOf(v).flat().map((value) => -value), expected.gradient.flat());
    });

    test(`${kernel}, ${backend}: steps with momentum`, () => {
      const moving = new flow.Particles(x);
      for (let i = 0; i < particles.steps; i++) {
        const at = moving.points(0);
        const v = flow.velocity(settings, sum(spec, at, at), sum(spec, at, y), { particles: moving.count });
        moving.advance(v, particles);
      }
      close(rowsOf(moving), expected.moved);
    });

    if (expected.drift) {
      test(`${kernel}, ${backend}: mean-shift drift`, () => {
        const drift = { ...settings, field: "mean-shift" };
        const at = (points, shifted) => {
          const [push, pull] = [x, y].map((sources) => sum(flow.sumSpec(drift), points, sources));
          return flow.velocity(drift, push, pull, { particles: particles.x.length, shifted });
        };
        close(rowsOf(at(x, false)), expected.drift);
        close(rowsOf(at(z, true)), expected.drift_at);
      });
    }
  }
}

test("kernels with drifts are those that the library has them for", () => {
  const here = Object.keys(KERNELS).filter((name) => KERNELS[name].drifts);
  assert.deepEqual(here, particles.kernels.filter((k) => k.drift).map((k) => k.kernel));
});

test("rules for the width and the step", () => {
  close(flow.defaultWidth(y), particles.default_width, 1e-9);
  close(flow.spread(y), particles.spread, 1e-9);
  const coincident = cloud([[0, 0], [0, 0], [0, 0], [3, 4]]);  // more pairs coincide than not
  close(flow.defaultWidth(coincident), 5);
  close(flow.defaultWidth(cloud([[1, 2], [1, 2]])), 1);
  for (const { kernel, width, usual_step: expected } of particles.kernels) {
    const { size, momentum } = flow.usualStep({ field: "mmd", kernel, width }, particles.spread);
    close([size, momentum], expected, 1e-9);
  }
});

test("compiled sums agree with plain ones over 3000 points, coincident and far ones among them", () => {
  const [a, b] = [targets.toy("rings", 3000, 5), targets.toy("spirals", 2999, 6)];
  for (let i = 0; i < 50; i++) [b.x[i], b.y[i]] = [a.x[i], a.y[i]];
  [a.x[0], a.y[0]] = [1e3, -1e3];
  const few = { x: a.x.slice(0, 61), y: a.y.slice(0, 61) };
  for (const kernel of Object.keys(KERNELS)) {
    for (const shift of [false, true].slice(0, KERNELS[kernel].drifts ? 2 : 1)) {
      const spec = { kernel, width: 0.2, shift };
      const [plain, fast] = [sums, quick].map((sum) => sum(spec, few, b));
      for (const part of ["value", "gx", "gy"]) close([...fast[part]], [...plain[part]], 1e-6);
    }
  }
});

test("compiled exponentials are those of float64 to 1e-6, down to the least", () => {
  const width = 0.3, n = 4001;
  const line = { x: Float64Array.from({ length: n }, (_, i) => (2.5 * i) / (n - 1)), y: new Float64Array(n) };
  const origin = cloud([[0, 0]]);
  for (const kernel of ["gaussian", "laplace"]) {
    const [plain, fast] = [sums, quick].map((sum) => sum({ kernel, width }, line, origin).value);
    fast.forEach((value, i) => {
      // a distance in float32 is known to a few 1e-7 of itself, and so is the exponent
      const bound = 1e-6 * (1 + Math.abs(Math.log(plain[i])));
      assert.ok(Math.abs(value / plain[i] - 1) <= bound, `${kernel} at ${line.x[i]}: ${value} for ${plain[i]}`);
      assert.ok(Math.abs(value - plain[i]) <= 3e-7);
    });
  }
  const far = quick({ kernel: "gaussian", width: 1e-3 }, cloud([[50, 0]]), origin).value[0];
  assert.ok(far > 0 && far < 1e-30, "what is far counts next to nothing, and is no subnormal number");
});

test("a particle has no slope at itself", () => {
  const one = cloud([[0.3, -0.7]]);
  for (const kernel of Object.keys(KERNELS)) {
    for (const sum of Object.values(BACKENDS)) {
      const { value, gx, gy } = sum({ kernel, width: 0.5 }, one, one);
      close([value[0], gx[0], gy[0]], [atZero({ kernel, width: 0.5 }), 0, 0], 1e-6);
    }
  }
});

const folder = "../../src/mmdflow/pretrained/digits/";
const bytes = (name) => {
  const file = read(folder + name);
  return file.buffer.slice(file.byteOffset, file.byteOffset + file.length);
};
const pipeline = new Pipeline(JSON.parse(read(`${folder}config.json`)), bytes("model.safetensors"), bytes("target_means.safetensors"));
const noise = Float64Array.from(digits.noise.flat());

test("digits: features and their pullback", () => {
  const { phi, pullback } = pipeline.features.at(noise, digits.noise.length, digits.t);
  close([...phi], digits.phi.flat());
  close([...pullback(Float64Array.from(digits.cotangent.flat()))], digits.pulled.flat());
});

for (const [i, { sample, ...options }] of digits.runs.entries()) {
  test(`digits: sample ${i}, ${JSON.stringify(options)}`, () => {
    const frames = [...pipeline.sample(noise, digits.noise.length, options)];
    close([...frames.at(-1).particles], sample.flat());
    assert.equal(frames.at(-1).done, frames.length);
  });
}

test("random numbers have the moments that they should", () => {
  const g = random(3), n = 100000;
  const mean = (f) => Array.from({ length: n }, f).reduce((a, b) => a + b, 0) / n;
  close(mean(() => g.uniform()), 0.5, 0.005);
  close(mean(() => g.normal()), 0, 0.02);
  close(mean(() => g.normal() ** 4), 3, 0.1);
  assert.deepEqual([random(1).uniform(), random(1).uniform() === random(2).uniform()], [random(1).uniform(), false]);
});

test("points of a density lie where its mass is, in no order", () => {
  const density = [0, 3, 0, 0, 0, 1];  // 3 wide, 2 high
  const { x, y } = targets.fromDensity({ density, width: 3, height: 2 }, 4000, 1);
  const upper = y.filter((value) => value > 0).length;
  close(upper / 4000, 0.75, 0.001);
  close(y.slice(0, 1000).filter((value) => value > 0).length / 1000, 0.75, 0.05);
  x.forEach((value, i) => assert.ok(y[i] > 0 ? Math.abs(value) <= 2 / 3 : value >= 2 / 3 && value <= 2));
  assert.equal(targets.fromDensity({ density: [0, 0], width: 2, height: 1 }, 10), null);
});

test("darkness of pixels: ink on white, transparent is white", () => {
  const data = Uint8ClampedArray.from([0, 0, 0, 255, 255, 255, 255, 255, 0, 0, 0, 0]);
  const picture = { data, width: 3, height: 1 };
  assert.deepEqual([...targets.darkness(picture).density], [1, 0, 0]);
  assert.deepEqual([...targets.darkness(picture, true).density], [0, 1, 1]);
});

test("tables: headers, delimiters, ids and columns that are no numbers", () => {
  const table = "id;a;note;b\n" + Array.from({ length: 200 }, (_, i) => `x${i};${i};n/a;${i % 7}`).join("\n");
  const { points, columns, rows } = targets.fromTable(table, 150);
  assert.deepEqual([columns, rows, points.x.length], [["a", "b"], 200, 150]);
  assert.ok(Math.max(...points.x) <= 2.2 && Math.min(...points.x) >= -2.2);
  assert.equal(targets.fromTable("1 2\n3 4\n", 10).rows, 2);
  assert.deepEqual(targets.fromTable("1,2\n3,4\n", 10).columns, ["column 1", "column 2"]);
});

for (const [text, message] of [
  ["", /table is empty/],
  ["a,b\n1,2\n3\n", /row 3 of the table has 1 columns: must have 2/],
  ["a,b\n1,x\n3,y\n", /1 columns of numbers in every row: must have at least 2/],
  ["a,b\n1,2\n", /1 row: must have at least 2/],
  ["a,b\n", /0 columns of numbers/],
]) {
  test(`tables: ${JSON.stringify(text)} is refused`, () => assert.throws(() => targets.fromTable(text, 10), message));
}
