"""Directions to project on: uniform ones, orthogonal, low-discrepancy, equispaced, and those of image patches."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.errors import InputError

#: Kinds of directions of vectors; images have "patches" besides.
DIRECTIONS = ("orthogonal", "random", "qmc", "equispaced", "patches")


def riesz_scale(dim: int, exponent: float) -> float:
    """Return c_d(r), with |z|^r = c_d(r) E|<xi, z>|^r over uniform unit directions xi: 1, pi/2, 2, 3pi/4, ... for r = 1."""
    log = math.lgamma((dim + exponent) / 2) - math.lgamma(dim / 2) - math.lgamma((exponent + 1) / 2)
    return math.sqrt(math.pi) * math.exp(log)


def _orthonormal(blocks: int, dim: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw blocks of `count` <= dim orthonormal directions, uniform on the Stiefel manifold (Mezzadri 2007)."""
    q, r = torch.linalg.qr(torch.randn(blocks, dim, count, dtype=torch.float64, generator=generator))
    return (q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)).transpose(1, 2).reshape(blocks * count, dim)


def draw_patches(
    count: int, event_shape: tuple[int, ...], patch: int, generator: torch.Generator | None = None
) -> Float[Tensor, "P d"]:
    """Draw unit directions of images [c, h, w] that vanish outside a random square patch each, in float64 on the CPU."""
    channels, height, width = event_shape
    values = draw_directions(count, channels * patch**2, "random", generator).reshape(count, channels, patch, patch)
    tops = torch.randint(height - patch + 1, (count, 1), generator=generator)
    lefts = torch.randint(width - patch + 1, (count, 1), generator=generator)
    xi = torch.zeros(count, *event_shape, dtype=torch.float64)
    rows, columns = tops + torch.arange(patch), lefts + torch.arange(patch)  # [P, patch]
    index = torch.arange(count)[:, None, None]
    xi.transpose(1, 2).transpose(2, 3)[index, rows[:, :, None], columns[:, None, :]] = values.permute(0, 2, 3, 1)
    return xi.flatten(1)


def draw_directions(
    count: int, dim: int, kind: str = "orthogonal", generator: torch.Generator | None = None
) -> Float[Tensor, "P d"]:
    """Draw unit directions in float64 on the CPU."""
    if dim == 1:
        return torch.ones(count, 1, dtype=torch.float64)
    if kind == "equispaced":
        offset = torch.rand(1, dtype=torch.float64, generator=generator)
        angle = math.pi * (torch.arange(count, dtype=torch.float64) + offset) / count
        return torch.stack([angle.cos(), angle.sin()], 1)
    if kind == "orthogonal":
        whole, rest = divmod(count, dim)
        parts = [_orthonormal(whole, dim, dim, generator), _orthonormal(1, dim, rest, generator)]
        return torch.cat([part for part in parts if part.numel()])
    if kind == "qmc":
        if dim > torch.quasirandom.SobolEngine.MAXDIM:
            raise InputError(
                f"directions = 'qmc' in dimension {dim}: must be at most {torch.quasirandom.SobolEngine.MAXDIM}"
            )
        seed = int(torch.randint(2**31, (), generator=generator))
        uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(count, dtype=torch.float64)
        normal = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    else:
        normal = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    return torch.nn.functional.normalize(normal, dim=1)
