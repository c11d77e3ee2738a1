"""Let a star become a heart: the colours of the points show where each of them went.

python examples/gallery/shape_morphing.py
"""

import numpy as np
from matplotlib.figure import Figure

from mmdflow import MMD, flow


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) < 0.9 + 0.4 * np.cos(5 * np.arctan2(x, y))


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x**2 + y**2 - 1) ** 3 < x**2 * y**3


def main(output: str = "shape_morphing.webp", num_points: int = 1500, num_steps: int = 160) -> None:
    rng = np.random.default_rng(0)
    square = rng.uniform(-1.4, 1.4, (2, 20 * num_points))
    source, target = (square[:, inside(*square)].T[:num_points] for inside in (star, heart))
    result = flow(MMD(target), source, num_steps=num_steps, save_every=max(1, num_steps // 40))
    print(result)

    figure = Figure(figsize=(11, 2.5), layout="constrained")
    angle = np.arctan2(*source.T)
    for axes, k in zip(figure.subplots(1, 5), (0, 2, 4, 8, len(result.steps) - 1), strict=True):
        k = min(k, len(result.steps) - 1)
        axes.scatter(*result.trajectory[k].T, s=3, c=angle, cmap="twilight")
        axes.set(title=f"step {result.steps[k]}", aspect="equal", xlim=(-1.7, 1.7), ylim=(-1.6, 1.6))
        axes.set_axis_off()
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
