"""Four divergences on the same three rings: where their flows get to in the same number of steps, and at what cost.

python examples/divergences.py, or with other sizes: python examples divergences --num_steps 50
"""

import time

import torch

from mmdflow import KALE, MMD, DrMMD, Gaussian, Riesz, SlicedMMD, flow
from mmdflow.data import toy
from mmdflow.metrics import mmd_test
from mmdflow.plots import scatter


def main(output: str = "rings.png", num_steps: int = 200, num_points: int = 300) -> None:
    generator = torch.Generator().manual_seed(0)
    target, held_out = (toy("rings", num_points, generator).double() for _ in range(2))
    source = 0.3 * torch.randn(num_points, 2, generator=generator).double()
    cases = {
        "MMD, Riesz": (MMD(target, Riesz()), {"step_size": 0.3, "momentum": 0.9}),
        "SlicedMMD": (SlicedMMD(target, 50, generator=generator), {"step_size": 0.3, "momentum": 0.9}),
        "KALE": (KALE(target, Gaussian(0.3), 0.1), {"step_size": 0.01}),
        "DrMMD": (DrMMD(target, Gaussian(0.3), 0.1), {"step_size": 0.005}),
    }
    pictures = []
    for i, (name, (divergence, settings)) in enumerate(cases.items()):
        start = time.perf_counter()
        result = flow(divergence, source, num_steps=num_steps, **settings)
        seconds = time.perf_counter() - start
        _, p_value = mmd_test(result.particles, held_out, generator=generator)
        pictures.append(result.particles / 2 + torch.tensor([1.25 * (2 * (i % 2) - 1), 1.25 * (1 - 2 * (i // 2))]))
        print(f"{name:>10}: F {result.values[0]:.4f} -> {result.values[-1]:.6f}, p = {p_value:.3f}, {seconds:.1f} s")
    scatter(torch.cat(pictures), limit=2.6).save(output)
    print(f"written: {output} (rows: {', '.join(cases)})")


if __name__ == "__main__":
    main()
