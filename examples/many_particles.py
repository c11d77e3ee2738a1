"""A million particles in space, moved onto a million points of a knotted tube, on a CPU.

Each step projects both clouds on 10 directions that repel each other and ranks them in histograms (`ranks="binned"`); what the
histograms add to any particle's velocity is bounded by `rank_error`. The values are exact ones of a sample of the clouds.

python examples/many_particles.py, or with other sizes: python examples many_particles --num_points 50
"""

import math
import time

import torch
from matplotlib.colors import LogNorm

from mmdflow import MMD, Riesz, SlicedMMD, flow
from mmdflow.flows import Record
from mmdflow.plots import draw


def trefoil(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw points of a tube around a trefoil knot, [count, 3]."""
    t = 2 * math.pi * torch.rand(count, generator=generator)
    radius = 2 + (3 * t).cos()
    knot = torch.stack([radius * (2 * t).cos(), radius * (2 * t).sin(), (3 * t).sin()], 1)
    return knot + 0.1 * torch.randn(count, 3, generator=generator)


def main(output: str = "many.png", num_points: int = 1_000_000, num_steps: int = 150, num_directions: int = 10) -> None:
    generator = torch.Generator().manual_seed(0)
    target = trefoil(num_points, generator)
    source = torch.randn(num_points, 3, generator=generator)
    settings = {"directions": "optimized", "ranks": "binned", "generator": generator}
    divergence = SlicedMMD(target, num_directions, **settings)
    start = time.perf_counter()
    settings = {"step_size": 0.5, "momentum": 0.8, "num_steps": num_steps, "save_every": Record(evaluate=False)}
    particles = flow(divergence, source, **settings).particles
    seconds = (time.perf_counter() - start) / num_steps
    sample = MMD(target[:5000], Riesz())
    values = [float(sample(x[:5000])) for x in (source, particles, trefoil(5000, generator))]
    print(f"{num_points} particles: {seconds:.3f} s a step, {torch.get_num_threads()} threads")
    print(f"1/2 MMD^2 of samples: {values[0]:.4f} -> {values[1]:.6f}; of fresh points of the target {values[2]:.6f}")
    print(f"ranks in bins moved no velocity by more than {divergence.rank_error:.4f}")

    def drawing(figure) -> None:
        clouds = {"source": source, "particles": particles, "target": target}
        for axes, (name, x) in zip(figure.subplots(1, 3), clouds.items(), strict=True):
            axes.hist2d(*x[:, :2].T.numpy(), bins=200, range=[[-4, 4], [-4, 4]], norm=LogNorm(), cmap="viridis")
            axes.set(title=name, aspect="equal")

    draw(drawing, (12.0, 4.4)).save(output)
    print(f"written: {output} (points a pixel, logarithmic)")


if __name__ == "__main__":
    main()
