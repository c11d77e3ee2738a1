"""Draw a photograph with dots: its lightness is the target's density, and repelling particles become a stipple drawing.

A known density needs no samples: the pixels are the target's points, their lightness is the weights.

python examples/gallery/photograph_density.py
"""

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

from mmdflow import MMD, flow


def main(output: str = "photograph_density.webp", num_points: int = 3000, num_steps: int = 60, every: int = 5) -> None:
    rng = np.random.default_rng(0)
    photo = load_sample_image("flower.jpg")[::every, ::every].mean(2)
    row, column = np.indices(photo.shape)
    pixels = np.stack([column.ravel(), -row.ravel()], 1) / len(photo)
    weights = photo.ravel() ** 1.5 / (photo**1.5).sum()
    start = pixels[rng.choice(len(pixels), num_points, p=weights)] + rng.uniform(0, 1 / len(photo), (num_points, 2))
    result = flow(MMD(pixels, target_weights=weights), start, num_steps=num_steps)
    print(result)

    figure = Figure(figsize=(10, 2.4), layout="constrained", facecolor="k")
    panels = figure.subplots(1, 3)
    panels[0].imshow(photo, cmap="gray")
    for axes, points in zip(panels[1:], (start, result.particles), strict=True):
        axes.scatter(*points.T, s=1, color="w", linewidths=0)
        axes.set(aspect="equal")
    for axes, title in zip(panels, ("photograph", f"{num_points} random draws", "after the flow"), strict=True):
        axes.set_title(title, color="w")
        axes.set_axis_off()
    figure.savefig(output, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
