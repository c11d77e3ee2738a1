"""Weights: mass that cannot travel, to clusters of 30 and 70 percent of the target from half and half in the source.

The plain flow leaves half of the particles at each; reweighting changes what they count, birth-death jumps where they are (with
a little diffusion in the first half, which parts the duplicates).

python examples/weighted_particles.py, or with other sizes: python examples weighted_particles --num_steps 50
"""

import torch

from mmdflow import MMD, Gaussian, flow
from mmdflow.flows import BirthDeath, Reweighting
from mmdflow.plots import draw


def main(output: str = "weights.png", num_steps: int = 200, num_points: int = 300) -> None:
    generator = torch.Generator().manual_seed(0)
    n = num_points
    centres = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])
    right = torch.arange(n) % 10 >= 3  # 70 percent
    target = centres[right.long()] + 0.7 * torch.randn(n, 2, generator=generator)
    source = centres[torch.arange(n) % 2] + 0.2 * torch.randn(n, 2, generator=generator)
    divergence = MMD(target, Gaussian(0.7))
    cases = {
        "plain": {},
        "weights given: 0.3 and 0.7": {"weights": torch.tensor([0.3, 0.7])[torch.arange(n) % 2]},
        "reweighting": {"moves": Reweighting(1.0)},
        "birth_death": {"moves": BirthDeath(1.0), "diffusion": lambda step: 0.05 * (step < num_steps // 2)},
    }
    panels = {}
    for name, extra in cases.items():
        result = flow(divergence, source, step_size=0.5, num_steps=num_steps, generator=generator, **extra)
        w = torch.full((n,), 1 / n) if result.weights is None else result.weights
        on_right = float(w[result.particles[:, 0] > 0].sum())
        distinct = len(result.particles.unique(dim=0))
        panels[f"{name}: {on_right:.0%} on the right"] = result.particles, w
        print(
            f"{name:>26}: F {result.values[0]:.4f} -> {result.values[-1]:.6f}, {on_right:.1%} of the mass on the right, weights "
            f"{n * w.min():.2f} to {n * w.max():.2f} times 1/n, {distinct} distinct particles"
        )

    def drawing(figure) -> None:
        for axes, (name, (x, w)) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
            axes.scatter(*target.T, s=6, color="0.8", linewidths=0)
            axes.scatter(*x.T, s=6 * n * w, color="C0", alpha=0.6, linewidths=0)
            axes.set(xlim=(-6, 6), ylim=(-3, 3), aspect="equal")
            axes.set_title(name, fontsize=10)

    draw(drawing, (10.0, 5.6)).save(output)
    print(f"written: {output} (grey: target; areas are weights)")


if __name__ == "__main__":
    main()
