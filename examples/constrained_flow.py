"""Constraints: particles kept on the sphere, the simplex or in a box by a projection after each step.

The target of the first two lies on the set; that of the box does not, and the particles do what they can from within.

python examples/constrained_flow.py, or with other sizes: python examples constrained_flow --num_steps 50
"""

import math

import torch

from mmdflow import MMD, Riesz, flow
from mmdflow.data import toy
from mmdflow.flows.constraints import box, simplex, sphere
from mmdflow.plots import draw


def main(output: str = "constrained.png", num_steps: int = 200, num_points: int = 400) -> None:
    generator = torch.Generator().manual_seed(0)
    n = num_points
    noise = torch.randn(n, 3, generator=generator)
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    wave = torch.stack([angle.cos(), angle.sin(), 0.6 * (3 * angle).sin()], 1)
    wave = wave / wave.norm(dim=1, keepdim=True)
    corners = (3 * torch.eye(3)[torch.arange(n) % 3] + noise / 2).softmax(1)
    cases = {
        "sphere": (sphere(), wave, torch.tensor([0.0, 0.0, 1.0]) + 0.1 * noise),
        "simplex": (simplex(), corners, 1 / 3 + 0.02 * noise),
        "box": (box(-1.5, 1.5), toy("rings", n, generator), 0.2 * noise[:, :2]),
    }
    panels = {}
    for name, (project, target, source) in cases.items():
        divergence = MMD(target, Riesz())
        settings = {"step_size": 0.1, "momentum": 0.9, "num_steps": num_steps}
        result = flow(divergence, source, callback=project, **settings)
        x = result.particles
        off = float((project(0, x) - x).norm(dim=1).max())
        free = flow(divergence, source, **settings).particles
        off_free = float((project(0, free) - free).norm(dim=1).max())
        panels[name] = target, x
        print(
            f"{name:>7}: F {result.values[0]:.4f} -> {result.values[-1]:.6f}; farthest from the set {off:.0e} (without the "
            f"constraint {off_free:.2f})"
        )

    def flat(points: torch.Tensor, name: str) -> torch.Tensor:
        if name == "sphere":  # equal areas
            return torch.stack([torch.atan2(points[:, 1], points[:, 0]), points[:, 2]], 1)
        return points @ torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]]) if name == "simplex" else points

    def drawing(figure) -> None:
        for axes, (name, (y, x)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            axes.scatter(*flat(y, name).T, s=6, color="0.75", linewidths=0)
            axes.scatter(*flat(x, name).T, s=6, color="C0", linewidths=0)
            axes.set(title=f"{name} (longitude and height)" if name == "sphere" else name)
            axes.set_aspect("auto" if name == "sphere" else "equal")

    draw(drawing, (13.0, 4.4)).save(output)
    print(f"written: {output} (grey: target)")


if __name__ == "__main__":
    main()
