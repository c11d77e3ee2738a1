"""Sums of one-dimensional kernels along the rows of projections, and their slopes.

Every function takes projections z [P, n], points [P, m], their weights [m] and the distance `tie` below which projections count
as equal, and returns [P, n].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

#: (z, points, weights, tie) -> the sum over the points at every z.
Sum: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]


#: Sizes of points whose squares, and grids between them, float32 can hold.
USUAL = 1e-18, 1e18
#: Dimensions up to which products with a few directions are quicker with one coordinate after the other in memory.
NARROW = 64
#: Bins of binned ranks: of measures of many points, and of fewer than `FEW`.
BINS, FEWER_BINS, FEW = 4096, 1024, 8192
#: The largest error bound of a binned slope, which lies in [-2, 2]; rows beyond it are sorted.
TOLERANCE = 0.05
#: Neighbours that are looked at for ties one by one; where more tie, all are searched for.
TIES = 8


@dataclass(frozen=True)
class SliceKernel:
    """A kernel on the line: its sums, their slopes (by `Ordered` where None), and whether they hold all pairs [P, n, m]."""

    potential: Sum
    slope: Sum | None = None
    pairwise: bool = False


def riesz(exponent: float) -> SliceKernel:
    """Return -|s - t|^r: by sorting for r = 1, else by all pairs. Points that tie with z have slope 0."""
    if exponent == 1:
        return SliceKernel(_sorted_potential)
    potential, slope = (functools.partial(part, exponent) for part in (_riesz_potential, _riesz_slope))
    return SliceKernel(potential, slope, pairwise=True)


def _riesz_potential(exponent: float, z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
    return -(_distances(z, points, tie).abs().pow(exponent) @ weights)


def _riesz_slope(exponent: float, z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
    difference = _distances(z, points, tie)
    size = torch.where(difference == 0, torch.ones_like(difference), difference.abs()).pow(exponent - 1)
    return -exponent * ((difference.sign() * size) @ weights)


def cosine() -> SliceKernel:
    """Return cos(s - t), which two sums over the points give at every z."""
    return SliceKernel(_cosine_potential, _cosine_slope)


def _cosine_potential(z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
    cos, sin = points.cos() @ weights, points.sin() @ weights
    return z.cos() * cos[:, None] + z.sin() * sin[:, None]


def _cosine_slope(z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
    cos, sin = points.cos() @ weights, points.sin() @ weights
    return z.cos() * sin[:, None] - z.sin() * cos[:, None]


def _sorted_potential(z: Tensor, points: Tensor, weights: Tensor, tie: float) -> Tensor:
    ordered, order = points.sort(1)
    sorted_weights = weights[order]
    mass, moment = _cumulative(sorted_weights), _cumulative(sorted_weights * ordered)
    below = torch.searchsorted(ordered, z.contiguous())
    return -(z * (2 * mass.gather(1, below) - mass[:, -1:]) + moment[:, -1:] - 2 * moment.gather(1, below))


class Ordered:
    """Points in the order of their projections, which gives the slopes of -|s - t| by ranks.

    Args:
        projected: the points, [P, m].
        weights: of the points, [m].
        tie: the distance below which projections count as equal.
    """

    def __init__(self, projected: Tensor, weights: Tensor, tie: float) -> None:
        self.values, self.order = projected.sort(1)
        self.weights, self.tie = weights, tie

    def slopes(self, z: Tensor) -> Tensor:
        """Return the sum over the points of d/dz of -w_j |z - t_j| at each z, [P, n], whose rows increase; ties count 0."""
        below, not_above = self._ranks(z)
        if bool((self.weights == self.weights[0]).all()):  # ranks alone
            return self.weights[0] * (self.values.shape[1] - (below + not_above).to(z.dtype))
        mass = _cumulative(self.weights[self.order])
        return mass[:, -1:] - mass.gather(1, below) - mass.gather(1, not_above)

    def _ranks(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many points lie below each z and how many not above it, [P, n]."""
        m = self.values.shape[1]
        if z is self.values:  # a rank is a place in the order, but for the few neighbours that tie
            below = torch.arange(m, device=z.device).expand_as(z).contiguous()
            not_above = below + 1
            for k in range(1, min(m, TIES + 1)):
                close = z[:, k:] - z[:, :-k] <= self.tie
                if not bool(close.any()):
                    return below, not_above
                below[:, k:] -= close.long()
                not_above[:, :-k] += close.long()
            if m <= TIES:
                return below, not_above
        below = torch.searchsorted(self.values, z - self.tie)
        not_above = below
        for _ in range(TIES):
            close = (not_above < m) & (self.values.gather(1, not_above.clamp_max(m - 1)) <= z + self.tie)
            if not bool(close.any()):
                return below, not_above
            not_above = not_above + close.long()
        return below, torch.searchsorted(self.values, z + self.tie, right=True)


def norms(points: Tensor) -> Tensor:
    """Return |x_i| of points [n, d], also where squares leave the range of numbers; torch's own is slow across memory."""
    norms = points.norm(dim=1) if points.is_contiguous() else points.square().sum(1).sqrt()
    return norms if USUAL[0] < float(norms.max()) < USUAL[1] else points.double().norm(dim=1).to(points.dtype)


def bins(size: int) -> int:
    """Return how many bins a measure of so many points gets."""
    return BINS if size >= FEW else FEWER_BINS


def bin_limit(norms: Tensor, dim: int) -> float:
    """Return how far bins reach: 8 standard deviations of round points of such norms, or as far as there are any."""
    return min(float(norms.max()), 8 * float(norms.square().mean().sqrt()) / dim**0.5)


def binned_slopes(z: Tensor, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], limit: float) -> tuple[Tensor, Tensor]:
    """Return slopes of the measure x - y at each z, [P, n], from histograms of [-limit, limit], and bounds on their errors, [P].

    x and y are projections [P, m] and weights [m]. A slope is off by at most twice the mass, of either sign, in its bin.
    """
    count = bins(x[0].shape[1] + y[0].shape[1])
    signed, mass = z.new_zeros(len(z), count), z.new_zeros(len(z), count)
    for (points, weights), sign in ((x, 1), (y, -1)):
        _, k = _places(points, limit, count)
        signed.scatter_add_(1, k, (sign * weights).expand_as(points))
        mass.scatter_add_(1, k, weights.expand_as(points))
    place, k = _places(z, limit, count)
    below = signed.cumsum(1) - signed
    inside = (place - k) * signed.gather(1, k)
    return signed.sum(1, keepdim=True) - 2 * (below.gather(1, k) + inside), 2 * mass.amax(1)


def _places(t: Tensor, limit: float, count: int) -> tuple[Tensor, Tensor]:
    """Return where t lies among the bins of [-limit, limit], in bins from the left, and the bin."""
    place = (t * (count / (2 * limit)) + count / 2).clamp(0, count)
    return place, place.long().clamp_max(count - 1)


def product(a: Tensor, b: Tensor, half: bool) -> Tensor:
    """Return a @ b in a's precision, formed in bfloat16 if `half`."""
    return (a.bfloat16() @ b.bfloat16()).to(a.dtype) if half else a @ b


def _cumulative(values: Tensor) -> Tensor:
    """Return the sums of the first 0, 1, ..., m entries of each row."""
    return torch.cat([values.new_zeros(len(values), 1), values.cumsum(1)], 1)


def _distances(z: Tensor, points: Tensor, tie: float) -> Tensor:
    """Return z_i - points_j along each row, [P, n, m], 0 for ties."""
    difference = z.unsqueeze(2) - points.unsqueeze(1)
    return torch.where(difference.abs() <= tie, torch.zeros_like(difference), difference)
