"""Drifts beside the flow of the MMD: from a narrow start onto two moons, in equally many steps.

A drift divides pull and push by local sums of the kernel, so that particles far from the data are pulled as strongly as near
ones. It has no divergence F, so the energy distance judges all of them.

python examples/gallery/drift_against_mmd.py
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from mmdflow import MMD, Drift, Gaussian, Riesz, flow
from mmdflow.data import toy


def main(output: str = "drift_against_mmd.png", num_points: int = 400, num_steps: int = 100) -> None:
    rng = np.random.default_rng(0)
    target = toy("moons", num_points, torch.Generator().manual_seed(0)).double().numpy()
    start = [-2.0, 1.5] + 0.05 * rng.normal(size=(num_points, 2))
    kernel = Gaussian(0.3)
    fields = {
        "MMD, Gaussian": (MMD(target, kernel), {"step_size": 0.18}),
        "MMD, Riesz": (MMD(target, Riesz()), {"step_size": 0.3, "momentum": 0.9}),
        "drift, mean-shift": (Drift(target, kernel, normalization="mean-shift"), {"step_size": 0.5}),
        "drift, Sinkhorn": (Drift(target, kernel, normalization="sinkhorn"), {"step_size": 0.5}),
    }
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    for axes, (title, (field, settings)) in zip(figure.subplots(1, 4), fields.items(), strict=True):
        particles = flow(field, start, num_steps=num_steps, **settings).particles
        distance = 2 * float(MMD(target, Riesz())(particles))
        print(f"{title}: energy distance {2 * float(MMD(target, Riesz())(start)):.3f} -> {distance:.4f}")
        axes.scatter(*target.T, s=3, color="0.8")
        axes.scatter(*start.T, s=3, color="C1")
        axes.scatter(*particles.T, s=3, color="C0")
        axes.set(title=f"{title}\nenergy distance {distance:.4f}", aspect="equal", xlim=(-2.6, 2.6), ylim=(-1.8, 2.1))
        axes.set_axis_off()
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
