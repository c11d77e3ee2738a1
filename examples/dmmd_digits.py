"""Sample the shipped digits model with each sampler and compare their cost and their distance to the data.

python examples/dmmd_digits.py, or with other sizes: python examples dmmd_digits --num_particles 50
"""

import torch

from mmdflow import DMMDPipeline
from mmdflow.data import load
from mmdflow.metrics import sliced_w2


def main(num_particles: int = 359) -> None:
    digits = load("digits")
    pipe = DMMDPipeline.from_pretrained("digits")
    print(f"held-out data: sliced W2 to the training set {sliced_w2(digits.test, digits.train):.4f}")
    for sampler in ("exact", "approximate"):
        for num_levels in (10, 50):
            generator = torch.Generator().manual_seed(0)
            out = pipe(num_particles, num_levels=num_levels, sampler=sampler, generator=generator)
            print(f"{sampler:>11}, NFE {out.nfe:3d}: sliced W2 {sliced_w2(out.particles, digits.train):.4f}")


if __name__ == "__main__":
    main()
