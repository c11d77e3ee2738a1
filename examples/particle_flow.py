"""Move a blob of points onto three rings with the MMD flow, and test whether they can be told from the target.

python examples/particle_flow.py, or with other sizes: python examples particle_flow --num_steps 50
"""

import torch

from mmdflow import MMD, Riesz, flow
from mmdflow.data import toy
from mmdflow.metrics import mmd_test
from mmdflow.plots import save_animation


def main(output: str = "rings.gif", num_steps: int = 200, num_points: int = 1000) -> None:
    generator = torch.Generator().manual_seed(0)
    target, held_out = (toy("rings", num_points, generator) for _ in range(2))
    source = 0.3 * torch.randn(num_points, 2, generator=generator)
    every = max(1, num_steps // 40)
    result = flow(
        MMD(target, Riesz()),
        source,
        step_size=0.3,
        momentum=0.9,
        num_steps=num_steps,
        save_every=every,
        progress=True,
    )
    _, p_value = mmd_test(result.particles, held_out, generator=generator)
    save_animation(result.trajectory, output)
    print(f"1/2 MMD^2 to the target: {result.values[0]:.5f} -> {result.values[-1]:.5f}")
    print(f"MMD test against held-out samples: p = {p_value:.3f}")
    print(f"written: {output}")


if __name__ == "__main__":
    main()
