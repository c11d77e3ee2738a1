// Seeded random numbers: sfc32 (Doty-Humphrey's small fast counter), and normal ones by Box and Muller.

/** Return a generator with `uniform()` in [0, 1), `normal()` and `integer(n)` in 0..n-1. */
export function random(seed = 0) {
  let a = 0x9e3779b9, b = 0x243f6a88, c = seed | 0, d = 1, spare = null;
  const next = () => {
    const t = (a + b + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + t) | 0;
    return t >>> 0;
  };
  for (let i = 0; i < 15; i++) next();
  const uniform = () => (next() * 2097152 + (next() >>> 11)) / 9007199254740992;
  const normal = () => {
    if (spare !== null) {
      const value = spare;
      spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
  return { uniform, normal, integer: (n) => Math.floor(n * uniform()) };
}

/** Shuffle arrays of one length in place, all by the same permutation. */
export function shuffle(generator, ...arrays) {
  for (let i = arrays[0].length - 1; i > 0; i--) {
    const j = generator.integer(i + 1);
    for (const array of arrays) [array[i], array[j]] = [array[j], array[i]];
  }
}
