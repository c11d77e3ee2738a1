"""Fifty weighted points in place of 5 000: the best summary of a cloud in the sense of the energy distance.

python examples/gallery/fifty_points.py
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from mmdflow import MMD, MMDQuantizer
from mmdflow.data import toy


def main(output: str = "fifty_points.png", num_points: int = 5000, few: int = 50) -> None:
    rng = np.random.default_rng(0)
    cloud = toy("pinwheel", num_points, torch.Generator().manual_seed(0)).double().numpy()
    chosen = MMDQuantizer(few, random_state=0).fit(cloud)
    drawn = rng.choice(cloud, few, replace=False)
    of_drawn = float(np.mean([MMD(cloud)(rng.choice(cloud, few, replace=False)) for _ in range(20)]))
    print(f"1/2 MMD^2 to the cloud: {chosen.value_:.2e}; of {few} random rows {of_drawn:.2e} on average")
    print(f"mean of the cloud {cloud.mean(0).round(3)}, of the points {(chosen.weights_ @ chosen.points_).round(3)}")

    figure = Figure(figsize=(8, 4), layout="constrained")
    panels = {f"{few} random rows": (drawn, np.full(few, 1 / few)), "chosen": (chosen.points_, chosen.weights_)}
    for axes, (title, (points, weights)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axes.scatter(*cloud[:3000].T, s=2, color="0.85")
        axes.scatter(*points.T, s=1500 * weights, color="C0")
        axes.set(title=title, aspect="equal")
        axes.set_axis_off()
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
