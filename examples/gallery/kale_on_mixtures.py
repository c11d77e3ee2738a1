"""KALE against the MMD on a mixture: which single Gaussian fits two modes best?

KALE with a small lambda is near KL and takes one mode; the MMD covers both with one wide Gaussian.

python examples/gallery/kale_on_mixtures.py
"""

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

from mmdflow import KALE, MMD, Gaussian


def main(output: str = "kale_on_mixtures.png", num_points: int = 200, num_centres: int = 25) -> None:
    z = norm.ppf((np.arange(num_points) + 0.5) / num_points)[:, None]  # equally likely places of N(0, 1)
    target = np.concatenate([0.5 * z[::2] - 2, 0.5 * z[1::2] + 2])
    kernel = Gaussian(0.5)
    divergences = {"MMD": MMD(target, kernel), "KALE, lambda = 0.001": KALE(target, kernel, 0.001)}
    centres, widths = np.linspace(0, 3, num_centres), (0.5, 1.0, 2.0)
    line = np.linspace(-6, 6, 300)

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(target[:, 0], bins=60, density=True, color="0.85", label="target")
    for colour, (name, divergence) in zip(("C0", "C3"), divergences.items(), strict=True):
        values = np.array([[float(divergence(c + w * z)) for c in centres] for w in widths])
        best = np.unravel_index(values.argmin(), values.shape)
        width, centre = widths[best[0]], centres[best[1]]
        print(f"{name}: the best Gaussian has centre {centre:.2f} and standard deviation {width:g}")
        left.plot(line, norm.pdf(line, centre, width), colour, label=f"best by {name}")
        right.plot(centres, values.min(0) / values.min(0).max(), colour, label=name)
    left.legend(frameon=False, fontsize=8)
    right.set(xlabel="centre of the Gaussian", title="divergence at the best width, over its largest")
    right.legend(frameon=False)
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
