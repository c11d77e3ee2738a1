"""Sums of one-dimensional kernels along the rows of projections, and their slopes.

Every function takes projections z [P, n], points [P, m], their weights [m] and the distance `tie` below which projections count
as equal, and returns [P, n].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

#: (z, points, weights, tie) -> the sum over the points at every z.
Sum: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class SliceKernel:
    """A kernel on the line: its sums, their slopes, and whether they hold all pairs [P, n, m] on the way."""

    potential: Sum
    slope: Sum
    pairwise: bool = False


def riesz(exponent: float) -> SliceKernel:
    """Return -|s - t|^r: by sorting for r = 1, else by all pairs. Points that tie with z have slope 0."""
    if exponent == 1:
        return SliceKernel(_sorted_potential, _sorted_slope)

    def potential(z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
        return -(_distances(z, points, tie).abs().pow(exponent) @ weights)

    def slope(z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
        difference = _distances(z, points, tie)
        size = torch.where(difference == 0, torch.ones_like(difference), difference.abs()).pow(exponent - 1)
        return -exponent * ((difference.sign() * size) @ weights)

    return SliceKernel(potential, slope, pairwise=True)


def cosine() -> SliceKernel:
    """Return cos(s - t), which two sums over the points give at every z."""

    def potential(z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
        cos, sin = points.cos() @ weights, points.sin() @ weights
        return z.cos() * cos[:, None] + z.sin() * sin[:, None]

    def slope(z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
        cos, sin = points.cos() @ weights, points.sin() @ weights
        return z.cos() * sin[:, None] - z.sin() * cos[:, None]

    return SliceKernel(potential, slope)


def _sorted_potential(z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
    ordered, order = points.sort(1)
    sorted_weights = weights[order]
    mass, moment = _cumulative(sorted_weights), _cumulative(sorted_weights * ordered)
    below = torch.searchsorted(ordered, z.contiguous())
    return -(z * (2 * mass.gather(1, below) - mass[:, -1:]) + moment[:, -1:] - 2 * moment.gather(1, below))


def _sorted_slope(z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
    ordered, order = points.sort(1)
    below = torch.searchsorted(ordered, (z - tie).contiguous())
    not_above = torch.searchsorted(ordered, (z + tie).contiguous(), right=True)
    if bool((weights == weights[0]).all()):  # ranks alone
        return weights[0] * (points.shape[1] - (below + not_above).to(z.dtype))
    mass = _cumulative(weights[order])
    return mass[:, -1:] - mass.gather(1, below) - mass.gather(1, not_above)


def _cumulative(values: Tensor) -> Tensor:
    """Return the sums of the first 0, 1, ..., m entries of each row."""
    return torch.cat([values.new_zeros(len(values), 1), values.cumsum(1)], 1)


def _distances(z: Tensor, points: Tensor, tie: float) -> Tensor:
    """Return z_i - points_j along each row, [P, n, m], 0 for ties."""
    difference = z.unsqueeze(2) - points.unsqueeze(1)
    return torch.where(difference.abs() <= tie, torch.zeros_like(difference), difference)
