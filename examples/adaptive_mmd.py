"""AdaptiveMMD: from far away a narrow kernel sees nothing and a wide one stays blurred, so the bandwidth follows the particles.

Bandwidth 0.3, bandwidth 12, the rule "gradient", and a rule of one's own: twice the distance to the nearest target point that
nine particles in ten keep within; "gradient" stays wide for the few stragglers. Every step is half the square of the bandwidth.

python examples/adaptive_mmd.py, or with other sizes: python examples adaptive_mmd --num_steps 50
"""

import torch

from mmdflow import MMD, AdaptiveMMD, Gaussian, Riesz, flow
from mmdflow.data import toy
from mmdflow.divergences.functional import mmd2
from mmdflow.plots import draw


def nearest(x: torch.Tensor, y: torch.Tensor) -> float:
    return max(0.15, 2 * float(torch.cdist(x, y).min(1).values.quantile(0.9)))


def main(output: str = "adaptive.png", num_steps: int = 200, num_points: int = 300, distance: float = 12.0) -> None:
    generator = torch.Generator().manual_seed(0)
    target = toy("eight-gaussians", num_points, generator)
    source = 0.3 * torch.randn(num_points, 2, generator=generator) + torch.tensor([distance, 0.0])
    panels = {}
    for name, rule in {"bandwidth 0.3": 0.3, "bandwidth 12": 12.0, "gradient": "gradient", "nearest": nearest}.items():
        fixed = isinstance(rule, float)
        divergence = MMD(target, Gaussian(rule)) if fixed else AdaptiveMMD(target, rule, kernel=Gaussian)

        def bandwidth(fixed=fixed, rule=rule, divergence=divergence) -> float:
            return rule if fixed else divergence.bandwidth  # the one that F at the start, or the last gradient, chose

        x = flow(
            divergence,
            source,
            step_size=lambda step, bandwidth=bandwidth: bandwidth() ** 2 / 2,
            num_steps=num_steps,
        ).particles
        energy = float(mmd2(x, target, Riesz(), unbiased=False))
        panels[f"{name}: energy distance {energy:.3g}"] = x
        print(f"{name:>13}: ends with bandwidth {bandwidth():.2f}, energy distance {energy:.4f} to the target")

    def drawing(figure) -> None:
        for axes, (name, x) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
            axes.scatter(*target.T, s=5, color="0.8", linewidths=0)
            axes.scatter(*x.T, s=5, color="C0", linewidths=0)
            axes.set(xlim=(-3, distance + 2), ylim=(-4, 4), aspect="equal")
            axes.set_title(name, fontsize=10)

    draw(drawing, (10.0, 6.0)).save(output)
    print(f"written: {output} (grey: target)")


if __name__ == "__main__":
    main()
