"""Noise injection: the same Gaussian-kernel flow with and without evaluating its gradient off the support (Arbel et al. 2019).

Without noise the particles that start out of the kernel's reach stay where they are; with it they are drawn in.

python examples/noise_injection.py, or with other sizes: python examples noise_injection --num_steps 50
"""

import torch

from mmdflow import MMD, Gaussian, flow
from mmdflow.data import toy
from mmdflow.plots import scatter


def main(output: str = "noise.png", num_steps: int = 500, num_points: int = 500) -> None:
    generator = torch.Generator().manual_seed(0)
    target = toy("eight-gaussians", num_points, generator)
    source = 0.2 * torch.randn(num_points, 2, generator=generator)
    divergence = MMD(target, Gaussian(0.25))
    settings = {"step_size": 0.3, "num_steps": num_steps}
    plain = flow(divergence, source, **settings)
    noisy = flow(divergence, source, **settings, noise_injection=lambda step: 0.6 * 0.99**step, generator=generator)
    print(f"1/2 MMD^2 after {num_steps} steps: plain {plain.values[-1]:.5f}, noise injected {noisy.values[-1]:.5f}")
    both = torch.cat([plain.particles - torch.tensor([2.0, 0.0]), noisy.particles + torch.tensor([2.0, 0.0])])
    scatter(both, limit=4.0).save(output)
    print(f"written: {output} (left: plain, right: noise injected)")


if __name__ == "__main__":
    main()
