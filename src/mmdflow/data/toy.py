"""Two-dimensional toy distributions, each with about zero mean and a standard deviation of about 1 an axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks


def checkerboard(n: int, generator: torch.Generator | None) -> Tensor:
    """Uniform on the 8 dark squares of a 4 x 4 board on [-1.7, 1.7]^2."""
    column = torch.randint(4, (n,), generator=generator)
    row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
    corner = torch.stack([column, row], 1)
    return ((corner + torch.rand(n, 2, generator=generator)) / 2 - 1) * 1.7


def rings(n: int, generator: torch.Generator | None) -> Tensor:
    """Three concentric circles of radius 0.6, 1.3 and 2, equally weighted (KALE and DrMMD papers' shape)."""
    radius = torch.tensor([0.6, 1.3, 2.0])[torch.randint(3, (n,), generator=generator)]
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


def moons(n: int, generator: torch.Generator | None) -> Tensor:
    """Two interleaved half circles with noise 0.075."""
    upper = torch.rand(n, generator=generator) < 0.5
    angle = math.pi * torch.rand(n, generator=generator)
    first = torch.stack([angle.cos(), angle.sin()], 1)
    second = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    x = torch.where(upper[:, None], first, second) + 0.05 * torch.randn(n, 2, generator=generator)
    return (x - torch.tensor([0.5, 0.25])) * 1.5


def spirals(n: int, generator: torch.Generator | None) -> Tensor:
    """Two arms of an Archimedean spiral with noise 0.05."""
    sign = 2.0 * torch.randint(2, (n,), generator=generator) - 1
    angle = 3 * math.pi * torch.rand(n, generator=generator).sqrt()
    arm = sign[:, None] * angle[:, None] / 4 * torch.stack([angle.cos(), angle.sin()], 1)
    return arm + 0.05 * torch.randn(n, 2, generator=generator)


def eight_gaussians(n: int, generator: torch.Generator | None) -> Tensor:
    """Eight Gaussians of standard deviation 0.1 on a circle of radius 1.4."""
    angle = math.pi / 4 * torch.randint(8, (n,), generator=generator)
    return 1.4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(n, 2, generator=generator)


def pinwheel(n: int, generator: torch.Generator | None) -> Tensor:
    """Five curved blades."""
    blade = torch.randint(5, (n,), generator=generator)
    x = torch.randn(n, 2, generator=generator) * torch.tensor([0.3, 0.1]) + torch.tensor([1.0, 0.0])
    angle = 2 * math.pi / 5 * blade + 0.25 * torch.exp(x[:, 0])
    cos, sin = angle.cos(), angle.sin()
    return 1.3 * torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], 1)


TOYS: dict[str, Callable[[int, torch.Generator | None], Tensor]] = {
    "checkerboard": checkerboard,
    "rings": rings,
    "moons": moons,
    "spirals": spirals,
    "eight-gaussians": eight_gaussians,
    "pinwheel": pinwheel,
}


def toy(name: str, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
    """Draw n points of a toy distribution.

    Example:
        >>> toy("rings", 100).shape
        torch.Size([100, 2])
    """
    return TOYS[_checks.choice("toy", name, TOYS)](_checks.count("n", n), generator)
