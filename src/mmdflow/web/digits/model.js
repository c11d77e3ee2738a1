// The shipped digits model: safetensors files, the feature network phi(x, t), and its gradient by hand.
// As mmdflow.features.MLPFeatures has it, on flat arrays [n, width] in float64.

/** Return {name: {shape, data}} of a safetensors file; data in float64. */
export function readSafetensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const tensors = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (entry.dtype !== "F32") throw new Error(`${name} has dtype ${entry.dtype}: must be F32`);
    const [start, end] = entry.data_offsets;
    const bytes = buffer.slice(8 + size + start, 8 + size + end);  // offsets need not be multiples of 4
    tensors[name] = { shape: entry.shape, data: Float64Array.from(new Float32Array(bytes)) };
  }
  return tensors;
}

const SIZE_OF_EMBEDDING = 32;

/** phi(x, t) and its pullback, for the features section of a pipeline's config.json and the tensors of its model file. */
export class Features {
  constructor(config, tensors) {
    if (config.network !== "mlp" || config.fourier) throw new Error(`network = ${config.network}: the page runs mlp without fourier only`);
    this.dim = config.event_shape.reduce((a, b) => a * b, 1);
    this.width = config.width;
    this.depth = config.depth;
    this.count = config.num_features;
    this.residuals = { flat: 0, squared_residual: this.count, mixed: config.num_residuals }[config.head];
    this.flat = this.count - this.residuals;
    this.factor = this.dim ** 0.25 / (2 * this.dim);
    const layer = (name) => new Linear(tensors[`${name}.weight`], tensors[`${name}.bias`]);
    this.level = layer("level");
    this.stem = layer("stem");
    this.blocks = Array.from({ length: this.depth }, (_, i) => [layer(`first.${i}`), layer(`second.${i}`)]);
    this.readOut = layer("read_out");
  }

  /** Return {phi, pullback} for x [n, dim] at one noise level; pullback(cotangent [n, K]) is J^T cotangent, [n, dim]. */
  at(x, n, t) {
    const { dim, width, count, flat, residuals, factor } = this;
    const levels = this.level.forward(embedding(t), 1);
    let h = this.stem.forward(x, n);
    addRow(h, n, width, levels, 0);
    const inner = [];
    this.blocks.forEach(([first, second], i) => {
      const pre = first.forward(h, n);
      addRow(pre, n, width, levels, (i + 1) * width);
      inner.push(pre);
      const out = second.forward(silu(pre), n);
      h = h.map((value, j) => value + out[j]);
    });
    const out = this.readOut.forward(silu(h), n);
    const columns = flat + residuals * dim;
    const phi = new Float64Array(n * count);
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < residuals; k++) {
        let square = 0;
        for (let e = 0; e < dim; e++) square += (x[i * dim + e] - out[i * columns + flat + k * dim + e]) ** 2;
        phi[i * count + k] = factor * square;
      }
      for (let k = 0; k < flat; k++) phi[i * count + residuals + k] = out[i * columns + k];
    }
    return { phi, pullback: (cotangent) => this.#pullback(x, n, h, inner, out, cotangent) };
  }

  #pullback(x, n, last, inner, out, cotangent) {
    const { dim, count, flat, residuals, factor } = this;
    const columns = flat + residuals * dim;
    const gradient = new Float64Array(n * dim), toOut = new Float64Array(n * columns);
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < flat; k++) toOut[i * columns + k] = cotangent[i * count + residuals + k];
      for (let k = 0; k < residuals; k++) {
        for (let e = 0; e < dim; e++) {
          const at = i * columns + flat + k * dim + e;
          const slope = 2 * factor * cotangent[i * count + k] * (x[i * dim + e] - out[at]);
          gradient[i * dim + e] += slope;
          toOut[at] = -slope;
        }
      }
    }
    let toState = timesSlope(this.readOut.backward(toOut, n), last);
    for (let b = this.depth - 1; b >= 0; b--) {
      const [first, second] = this.blocks[b];
      const through = first.backward(timesSlope(second.backward(toState, n), inner[b]), n);
      toState = toState.map((value, j) => value + through[j]);
    }
    const fromStem = this.stem.backward(toState, n);
    return gradient.map((value, j) => value + fromStem[j]);
  }
}

class Linear {
  constructor(weight, bias) {
    [this.outputs, this.inputs] = weight.shape;
    this.weight = weight.data;
    this.bias = bias.data;
    this.transposed = new Float64Array(weight.data.length);
    for (let o = 0; o < this.outputs; o++) {
      for (let i = 0; i < this.inputs; i++) this.transposed[i * this.outputs + o] = this.weight[o * this.inputs + i];
    }
  }

  forward(x, n) {
    const y = product(x, n, this.inputs, this.weight, this.outputs);
    addRow(y, n, this.outputs, this.bias, 0);
    return y;
  }

  backward(cotangent, n) {
    return product(cotangent, n, this.outputs, this.transposed, this.inputs);
  }
}

/** Return a b^T for a [n, inner] and b [m, inner], two rows and four columns at once. */
function product(a, n, inner, b, m) {
  const c = new Float64Array(n * m);
  for (let i = 0; i < n; i += 2) {
    const a0 = i * inner, a1 = Math.min(i + 1, n - 1) * inner;
    for (let j = 0; j < m; j += 4) {
      const [b0, b1, b2, b3] = [0, 1, 2, 3].map((k) => Math.min(j + k, m - 1) * inner);
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
      for (let k = 0; k < inner; k++) {
        const u = a[a0 + k], v = a[a1 + k], w0 = b[b0 + k], w1 = b[b1 + k], w2 = b[b2 + k], w3 = b[b3 + k];
        s0 += u * w0; s1 += u * w1; s2 += u * w2; s3 += u * w3;
        t0 += v * w0; t1 += v * w1; t2 += v * w2; t3 += v * w3;
      }
      const upper = [s0, s1, s2, s3], lower = [t0, t1, t2, t3];
      for (let k = 0; k < 4 && j + k < m; k++) {
        c[i * m + j + k] = upper[k];
        if (i + 1 < n) c[(i + 1) * m + j + k] = lower[k];
      }
    }
  }
  return c;
}

function addRow(x, n, width, row, from) {
  for (let i = 0; i < n; i++) for (let j = 0; j < width; j++) x[i * width + j] += row[from + j];
}

const sigmoid = (v) => 1 / (1 + Math.exp(-v));
const silu = (x) => x.map((v) => v * sigmoid(v));

/** Return g silu'(x), entry by entry. */
function timesSlope(g, x) {
  return g.map((value, i) => {
    const s = sigmoid(x[i]);
    return value * s * (1 + x[i] * (1 - s));
  });
}

/** Return sines and cosines of the noise level, at frequencies pi/2 to 15 pi (mmdflow.features.base.LevelEmbedding). */
function embedding(t) {
  const half = SIZE_OF_EMBEDDING / 2;
  const angles = Array.from({ length: half }, (_, i) => t * Math.exp((Math.log(30) * i) / (half - 1)) * (Math.PI / 2));
  return Float64Array.from([...angles.map(Math.sin), ...angles.map(Math.cos)]);
}
