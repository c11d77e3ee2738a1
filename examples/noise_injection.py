"""Noise injection: the same Gaussian-kernel flow with and without evaluating its gradient off the support (Arbel et al. 2019).

Without noise the particles that start out of the kernel's reach stay where they are; with it they are drawn in.

python examples/noise_injection.py [--output noise.png] [--num_steps 500] [--num_points 500]
"""

import argparse

import torch

from mmdflow import MMD, Gaussian, flow
from mmdflow.data import toy
from mmdflow.plots import scatter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="noise.png")
    parser.add_argument("--num_steps", type=int, default=500)
    parser.add_argument("--num_points", type=int, default=500)
    options = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    target = toy("eight-gaussians", options.num_points, generator)
    source = 0.2 * torch.randn(options.num_points, 2, generator=generator)
    divergence = MMD(target, Gaussian(0.25))
    settings = {"step_size": 0.3, "num_steps": options.num_steps}
    plain = flow(divergence, source, **settings)
    noisy = flow(divergence, source, **settings, noise_injection=lambda step: 0.6 * 0.99**step, generator=generator)
    print(
        f"1/2 MMD^2 after {options.num_steps} steps: plain {plain.values[-1]:.5f}, noise injected {noisy.values[-1]:.5f}"
    )
    both = torch.cat([plain.particles - torch.tensor([2.0, 0.0]), noisy.particles + torch.tensor([2.0, 0.0])])
    scatter(both, limit=4.0).save(options.output)
    print(f"written: {options.output} (left: plain, right: noise injected)")


if __name__ == "__main__":
    main()
