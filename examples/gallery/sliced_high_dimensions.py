"""A sliced flow in 100 dimensions: a ring that lies in an unknown plane is found by sorting projections.

python examples/gallery/sliced_high_dimensions.py
"""

import time

import numpy as np
from matplotlib.figure import Figure

from mmdflow import MMD, SlicedMMD, flow
from mmdflow.flows import Record


def main(
    output: str = "sliced_high_dimensions.png", num_points: int = 2000, dim: int = 100, num_steps: int = 150
) -> None:
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(dim, 2)))[0]

    def ring(n: int) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi, n)
        return 5 * np.stack([np.cos(angle), np.sin(angle)], 1) @ plane.T + 0.1 * rng.normal(size=(n, dim))

    target, start = ring(num_points).astype(np.float32), rng.normal(size=(num_points, dim)).astype(np.float32)
    begin = time.perf_counter()
    field = SlicedMMD(target, num_directions=200)
    falling = {"step_size": lambda step: 3 * (1 - step / num_steps), "momentum": 0.9}  # the noise of slicing dies out
    result = flow(
        field, start, num_steps=num_steps, save_every=Record(max(1, num_steps // 3), evaluate=False), **falling
    )
    print(f"{num_points} particles in {dim} dimensions: {(time.perf_counter() - begin) / num_steps:.3f} s a step")
    print(f"1/2 MMD^2, exact: {float(MMD(target)(start)):.3f} -> {float(MMD(target)(result.particles)):.4f}")

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axes, x, step in zip(figure.subplots(1, 4), result.trajectory, result.steps, strict=False):
        off = np.sqrt(((x - x @ plane @ plane.T) ** 2).sum(1).mean())
        axes.scatter(*(target @ plane).T, s=2, color="0.8")
        axes.scatter(*(x @ plane).T, s=2, color="C0")
        axes.set(title=f"step {step}, {off:.1f} off the plane", aspect="equal", xlim=(-7, 7), ylim=(-7, 7))
        axes.set_axis_off()
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
