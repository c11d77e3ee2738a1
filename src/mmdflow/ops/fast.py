"""Sums within a tolerance, in O(n log n): what `backend("fast", tolerance)` does.

Gaussians in up to three dimensions are summed on a grid (`spline_grid`). Its order and spacing come from a bound on its error,
and from exact sums at a sample of the points, which say how large the result is. The same sample measures the error afterwards.
Where the tolerance is not kept, finer grids and at last the exact sum follow; where the exact sum is cheaper, it is taken.
A few points far out, which would stretch the grid, are summed exactly.
On the line all kernels that `sorted_line` takes are exact and quick anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmdflow.errors import InputError
from mmdflow.kernels import Kernel, Polynomial
from mmdflow.kernels.profiles import LOG2E, Exponential, Profile, Swept, Term
from mmdflow.ops import spline_grid
from mmdflow.ops.spline_grid import Box, Grid

#: Dimensions in which grids are offered.
MOST_DIM = 3
#: Points at which the exact sums are known.
SAMPLE = 32
#: The part of the tolerance that the bound on a grid's error may take, trial by trial. The bound is that of the worst two points;
#: the errors of many points cancel, some hundred times.
SHARES = (100.0, 1.0, 0.01)
#: The part of the tolerance that may be measured on the sample, which does not see all points.
MEASURED = 0.5
#: Grids in float32 carry about this error, relative to the sum of the absolute weights.
SINGLE = 1e-6
#: Nanoseconds on one thread: of a pair, of a point, of a share of a point on a node, of a node in a transform. In float64 twice.
PAIR, POINT, SHARE, NODE = 0.3, 40.0, 0.8, 15.0
#: What images of the kernel may weigh at most, however large the tolerance.
MOST_TAIL = 0.01
#: Nodes of a grid at most: 256 MB a field in float32.
MOST_NODES = 2**26
#: Points whose box tells where the bulk lies, and the part of all points that may lie far from it.
BULK, MOST_FAR = 1000, 0.01
#: Pairs, in nanoseconds, below which nothing else is tried.
LEAST = 4e6
#: Tolerances below which exact sums in float32 are no measure.
SINGLE_TOLERANCE = 1e-5


@dataclass
class FastSums:
    """What the sums in a block of ``backend("fast", tolerance)`` did; the block's value.

    Attributes:
        tolerance: of each sum: the root mean square of its error over that of the result.
        error: the largest such error, as measured on samples of the points, of the sums that were taken from grids.
        grids: how many sums were taken from grids.
        exact: how many sums were exact.
        reason: why the last of these was exact.
    """

    tolerance: float
    error: float = 0.0
    grids: int = 0
    exact: int = 0
    reason: str = ""

    def include(self, other: FastSums) -> None:
        """Count what another block did as done here."""
        self.error = max(self.error, other.error)
        self.grids, self.exact = self.grids + other.grids, self.exact + other.exact
        self.reason = other.reason or self.reason


def check(kernel: Kernel, term: Term | None, dim: int) -> None:
    """Raise InputError unless sums of this kernel, of that compiled term, are offered in this dimension.

    Kernels made of kernels are checked by parts, where these are summed.
    """
    if kernel.finite or isinstance(kernel, Polynomial) or type(kernel).sum_by_parts is not Kernel.sum_by_parts:
        return
    if dim > MOST_DIM:
        raise InputError(
            f"backend = 'fast' in dimension {dim}: must be 1 to {MOST_DIM}; in more take 'auto', whose sums are "
            f"exact, or SlicedMMD"
        )
    on_line = dim == 1 and term is not None and isinstance(term.profile, Swept)
    if not on_line and (term is None or not isinstance(term.profile, Exponential)):
        allowed = "Gaussian, Laplace, Matern, Riesz(1)" if dim == 1 else "Gaussian"
        raise InputError(
            f"backend = 'fast' with kernel = {type(kernel).__name__} in dimension {dim}: must be {allowed} or a mixture; "
            f"take 'auto', whose sums are exact"
        )


@dataclass(frozen=True)
class Sums:
    """What is to be summed: the arguments of `add` of a backend, and that function.

    Attributes:
        exact: (profile, x, y, weights, values, slopes) -> None; adds exact sums to `values` [n] and `slopes` [n, d] unless None.
        profile: of the kernel.
        x: where sums are wanted, [n, d].
        y: the points, [m, d].
        weights: of the points, [m].
    """

    exact: Callable[[Profile, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], None]
    profile: Profile
    x: Tensor
    y: Tensor
    weights: Tensor

    @property
    def pair_cost(self) -> float:
        """The time of a pair, in nanoseconds."""
        return PAIR * (1 if self.x.dtype == torch.float32 else 3)

    def sample(self, rows: Tensor, tolerance: float, values: bool, slopes: bool) -> list[Tensor]:
        """Return the exact sums at a few points, in float64 where float32 has no digits to spare."""
        x, y, weights = self.x[rows], self.y, self.weights
        if tolerance < SINGLE_TOLERANCE:
            x, y, weights = x.double(), y.double(), weights.double()
        value = x.new_zeros(len(x), dtype=torch.float64) if values else None
        slope = torch.zeros_like(x, dtype=torch.float64) if slopes else None
        self.exact(self.profile, x, y, weights, value, slope)
        return [total for total in (value, slope) if total is not None]


def add(report: FastSums, sums: Sums, values: Tensor | None, slopes: Tensor | None) -> None:
    """Add the sums within the tolerance to `values` [n] and `slopes` [n, d], each unless None, and note in the report how."""
    reason = "the kernel has no grid"
    if isinstance(sums.profile, Exponential):
        bandwidth = math.sqrt(-LOG2E / (2 * sums.profile.rate))
        reason = _on_grid(report, sums, bandwidth, values, slopes)
        if reason:
            bulk = _bulk(sums)
            if bulk is not None and not _in_bulk(report, sums, bulk, bandwidth, values, slopes):
                reason = ""
    if not reason:
        report.grids += 1
        return
    report.exact += 1
    report.reason = reason
    sums.exact(sums.profile, sums.x, sums.y, sums.weights, values, slopes)


def _bulk(sums: Sums) -> tuple[Tensor, Tensor] | None:
    """Return which x and y lie in the bulk, [n] and [m], or None: all do, or too many do not.

    The bulk is thrice as wide as the box of a thousand of the points.
    """
    points = torch.cat([sums.x, sums.y])
    rows = torch.from_numpy(np.random.default_rng(1).permutation(len(points))[:BULK]).to(points.device)
    low, high = points[rows].aminmax(dim=0)
    extent = high - low
    near = ((points >= low - extent) & (points <= high + extent)).all(1)
    near_x, near_y = near[: len(sums.x)], near[len(sums.x) :]
    far_x, far_y = (float((~t).double().mean()) for t in (near_x, near_y))
    return (near_x, near_y) if 0 < far_x + far_y <= MOST_FAR else None


def _in_bulk(
    report: FastSums,
    sums: Sums,
    bulk: tuple[Tensor, Tensor],
    bandwidth: float,
    values: Tensor | None,
    slopes: Tensor | None,
) -> str:
    """Add the sums of the bulk from a grid, and those of a few points far out exactly; else return why no grid will do."""
    near_x, near_y = bulk
    inner = Sums(sums.exact, sums.profile, sums.x[near_x], sums.y[near_y], sums.weights[near_y])
    parts = [None if total is None else total.new_zeros(len(inner.x), *total.shape[1:]) for total in (values, slopes)]
    reason = _on_grid(report, inner, bandwidth, *parts)
    if reason:
        return reason
    outer = [None if total is None else total[~near_x] for total in (values, slopes)]
    sums.exact(sums.profile, inner.x, sums.y[~near_y], sums.weights[~near_y], *parts)
    sums.exact(sums.profile, sums.x[~near_x], sums.y, sums.weights, *outer)
    for total, part, rest in zip((values, slopes), parts, outer, strict=True):
        if total is not None and part is not None and rest is not None:
            total[near_x] += part
            total[~near_x] = rest
    return ""


def _on_grid(report: FastSums, sums: Sums, bandwidth: float, values: Tensor | None, slopes: Tensor | None) -> str:
    """Add the sums from a grid and return nothing, or return why none will do."""
    x, y, dim = sums.x, sums.y, sums.x.shape[1]
    pairs = sums.pair_cost * len(x) * len(y)
    if pairs < LEAST:
        return "exact sums are quicker for so few points"
    totals = [total for total in (values, slopes) if total is not None]
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(x))[:SAMPLE]).to(x.device)
    truth = sums.sample(rows, report.tolerance, values is not None, slopes is not None)
    sizes = [float(total.square().mean().sqrt()) for total in truth]
    mass = float(sums.weights.abs().double().sum())
    if not all(0 < size < math.inf for size in (*sizes, mass)):
        return "the sums on the sample vanish or are not finite"
    # what the result may be off by, in the units of the bounds on the kernel and on its gradient
    value = report.tolerance * sizes[0] / mass if values is not None else math.inf
    slope = report.tolerance * sizes[-1] / (mass * bandwidth) if slopes is not None else math.inf
    reason, box = "", Box.of(x, y)
    if not all(math.isfinite(extent) for extent in box.extents):
        return "not all points are finite"
    for share in SHARES:
        grid = _cheapest(sums, box, bandwidth, share * value, share * slope, len(totals))
        if grid is None:
            return reason or "the tolerance needs a finer grid than is offered"
        if _cost(grid, sums, len(totals)) > pairs:
            return reason or "exact sums are quicker than so fine a grid"
        results = grid.sums(x, y, sums.weights, values=values is not None, slopes=slopes is not None)
        parts = ([results[0]] if values is not None else []) + ([results[-dim:].T] if slopes is not None else [])
        errors = [float((a[rows] - b).square().mean().sqrt()) for a, b in zip(parts, truth, strict=True)]
        error = max(error / size for error, size in zip(errors, sizes, strict=True))
        if error <= MEASURED * report.tolerance:
            report.error = max(report.error, error)
            for total, part in zip(totals, parts, strict=True):
                total.add_(part)
            return ""
        reason = f"the error on a sample of the points was {error:.1e}"
    return reason


def _cheapest(sums: Sums, box: Box, bandwidth: float, value: float, slope: float, results: int) -> Grid | None:
    """Return the cheapest grid over the box whose bounds are at most those, or None."""
    grids = []
    least = min(value, slope)
    dtype = torch.float32 if least > SINGLE else torch.float64
    for order in spline_grid.ORDERS:
        ratio = spline_grid.spacing(order, sums.x.shape[1], value / 2, slope / 2)  # the other half is for the images
        if ratio is not None:
            grid = spline_grid.around(box, bandwidth, ratio, order, min(least / 2, MOST_TAIL), dtype)
            if grid.nodes <= MOST_NODES:
                grids.append(grid)
    return min(grids, key=lambda grid: _cost(grid, sums, results), default=None)


def _cost(grid: Grid, sums: Sums, results: int) -> float:
    """Return the time of the sums on a grid, in nanoseconds; `results` is 2 for values and slopes, else 1."""
    fields = sums.x.shape[1] + results - 1
    shares = SHARE * grid.order ** sums.x.shape[1]
    points = (POINT + shares) * len(sums.y) + (POINT + fields * shares) * len(sums.x)
    return (points + NODE * (1 + fields) * grid.nodes) * (1 if grid.dtype == torch.float32 else 2)
