"""Directions to project on: uniform, orthogonal, optimized, structured, low-discrepancy, equispaced, of image patches."""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.errors import InputError

#: Kinds of directions of vectors; images have "patches" besides.
DIRECTIONS = ("orthogonal", "optimized", "structured", "random", "qmc", "equispaced", "patches")

#: Directions that are optimized together; more are several sets, rotated on their own.
SET = 1024
#: Steps of the optimization: twice as many gain a few hundredths of the error.
STEPS = 40
#: Structured directions that are written at a time.
ROWS = 64
#: Structured directions need so many dimensions: sums of few signs are not normal, and cut rows may vanish.
STRUCTURED_DIM = 64


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


@functools.lru_cache(maxsize=64)
def _spread(count: int, dim: int) -> Tensor:
    """Return directions apart from each other and each other's opposites: they minimize sum_{p != q} -log(1 - <xi_p, xi_q>^2).

    The energies -|x - y| and <x, y> asin <x, y>, the latter the mean squared error for a target at a point, led to the same
    error of the gradient within a few percent; this one needs no roots. Steps down the gradient along the sphere have the
    (shorter) length of Barzilai and Borwein (1988).
    """
    xi = draw_directions(count, dim, "orthogonal", torch.Generator().manual_seed(0)).float()
    if count <= dim:
        return xi
    step, shortest, unit = dim / (4 * count), math.inf, xi.new_ones(())
    before = slope_before = torch.zeros_like(xi)
    cosines, squared_sines = xi.new_empty(2, count, count)
    for k in range(STEPS):
        torch.mm(xi, xi.T, out=cosines).fill_diagonal_(0)
        torch.addcmul(unit, cosines, cosines, value=-1, out=squared_sines).clamp_min_(1e-6)  # some start close
        slope = cosines.div_(squared_sines) @ xi
        slope -= (slope * xi).sum(1, keepdim=True) * xi
        if float(slope.abs().max()) <= 1e-5 * count:  # what is left is rounding
            break
        if k:
            moved, changed = xi - before, slope - slope_before
            step = float((moved * changed).sum().abs() / changed.square().sum())
            shortest = min(step, shortest)
            if STEPS - k <= 3:  # long steps disturb what matters most, the lowest degrees
                step = shortest
        before, slope_before = xi, slope
        xi = torch.nn.functional.normalize(xi - step * slope, dim=1)
    return xi


def hadamard(values: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """Return the Walsh-Hadamard transform of each row, whose length D is a power of two."""
    size = values.shape[-1]
    step = 1
    while step < size:
        a, b = values.reshape(*values.shape[:-1], -1, 2, step).unbind(-2)
        values = torch.stack([a + b, a - b], -2).reshape(values.shape)
        step *= 2
    return values


def draw_signs(count: int, dim: int, generator: torch.Generator | None = None) -> Float[Tensor, "blocks 2 D"]:
    """Draw the signs s, t of enough blocks of structured directions, in float64; D is the power of two from `dim` up."""
    if dim < STRUCTURED_DIM:
        raise InputError(f"directions = 'structured' in dimension {dim}: must be at least {STRUCTURED_DIM}")
    size = 1 << (dim - 1).bit_length()
    return 1.0 - 2.0 * torch.randint(2, (-(-count // size), 2, size), generator=generator).double()


def structured_directions(signs: Float[Tensor, "blocks 2 D"], count: int, dim: int) -> Float[Tensor, "P d"]:
    """Return the first rows of H diag(t) H diag(s), cut to `dim` <= D entries s_j (H t)_(p xor j) and at unit length."""
    size, columns = signs.shape[2], torch.arange(dim)
    xi = signs.new_empty(count, dim)
    for (s, _), transform, rows in zip(signs, hadamard(signs[:, 1]), xi.split(size), strict=True):
        for places, part in zip(torch.arange(len(rows)).split(ROWS), rows.split(ROWS), strict=True):
            torch.mul(transform[places[:, None] ^ columns], s[:dim], out=part)
    return torch.nn.functional.normalize(xi, dim=1)


def structured_scales(signs: Float[Tensor, "blocks 2 D"], count: int, dim: int) -> Float[Tensor, " P"]:
    """Return what the first rows of H diag(t) H diag(s) are to be multiplied by for unit length, in O(D log D) a block."""
    inside = torch.zeros(signs.shape[2], dtype=signs.dtype)
    inside[:dim] = 1
    spectrum = hadamard(hadamard(signs[:, 1]).square()) * hadamard(inside)
    squares = hadamard(spectrum) / signs.shape[2]  # the convolution of both by xor
    return squares.flatten()[:count].rsqrt()


def draw_directions(
    count: int, dim: int, kind: str = "orthogonal", generator: torch.Generator | None = None
) -> Float[Tensor, "P d"]:
    """Draw unit directions in float64 on the CPU.

    "optimized" ones repel each other and are rotated at random, so that each is uniform on the sphere: orthonormal for
    count <= dim, equispaced in the plane, in sets of at most 1024 (as "orthogonal" where dim >= 1024). The first draw of a
    count takes up to a second.

    "structured" ones are rows of H diag(t) H diag(s) with random signs s, t and the Walsh-Hadamard matrix H, on which n points
    are projected in O(n D log D) (`mmdflow.ops.numba_hadamard`). Rows are cut to `dim` entries, where it is no power of two, and
    normalized. They are not quite uniform on the sphere: c_d E|<xi, z>| is about 1/(2 dim) too small for z along a coordinate.
    """
    if dim == 1:
        return torch.ones(count, 1, dtype=torch.float64)
    if kind == "equispaced" or (kind == "optimized" and dim == 2):
        offset = torch.rand(1, dtype=torch.float64, generator=generator)
        angle = math.pi * (torch.arange(count, dtype=torch.float64) + offset) / count
        return torch.stack([angle.cos(), angle.sin()], 1)
    if kind == "orthogonal" or (kind == "optimized" and min(count, SET) <= dim):
        whole, rest = divmod(count, dim)
        parts = [_orthonormal(whole, dim, dim, generator), _orthonormal(1, dim, rest, generator)]
        return torch.cat([part for part in parts if part.numel()])
    if kind == "optimized":
        sets = torch.arange(count).chunk(-(-count // SET))
        parts = [_spread(len(part), dim).double() @ _orthonormal(1, dim, dim, generator) for part in sets]
        return torch.nn.functional.normalize(torch.cat(parts), dim=1)
    if kind == "structured":
        return structured_directions(draw_signs(count, dim, generator), count, dim)
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
