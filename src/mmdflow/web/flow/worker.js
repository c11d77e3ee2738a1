// A worker of the pool: sums over pairs at a share of the points.
import { compiledSums } from "./simd.js";
import { sums } from "./sums.js";

const sum = compiledSums() ?? sums;
let target = null;

self.onmessage = ({ data }) => {
  if (data.target) {
    target = data.target;
    return;
  }
  const { id, spec, points, particles } = data;
  const pull = sum(spec, points, target);
  const push = particles === null ? null : sum(spec, points, particles);
  const buffers = [pull, push].flatMap((part) => (part ? [part.value.buffer, part.gx.buffer, part.gy.buffer] : []));
  self.postMessage({ id, pull, push }, buffers);
};
