"""Sums within a tolerance, in O(n log n): what `backend("fast", tolerance)` does.

Gaussians in up to three dimensions are summed on a grid (`spline_grid`). Its order and spacing come from a bound on its error,
and from exact sums at a sample of the points, which say how large the result is. All other radial kernels, and Gaussians too
narrow for a grid, are summed by the fast multipole method (`tree`), whose degree comes from the tolerance. The same sample
measures the error afterwards. Where the tolerance is not kept, finer grids or higher degrees and at last the exact sum follow;
where the exact sum is cheaper, it is taken. A few points far out, which would stretch a grid or a tree, are summed exactly.
On the line all kernels that `sorted_line` takes are exact and quick anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmdflow.errors import InputError
from mmdflow.kernels import Kernel, Polynomial
from mmdflow.kernels.profiles import LOG2E, Decay, Exponential, Power, Profile, Swept, Term
from mmdflow.ops import spline_grid
from mmdflow.ops.spline_grid import Box, Grid

#: Dimensions in which grids and trees are offered.
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
#: Profiles whose pairs take longer than a Gaussian's, and how many times.
DEARER: dict[type, float] = {Decay: 2.2, Power: 2.4}
#: What images of the kernel may weigh at most, however large the tolerance.
MOST_TAIL = 0.01
#: Nodes of a grid at most: 256 MB a field in float32.
MOST_NODES = 2**26
#: Points whose box tells where the bulk lies, and the part of all points that may lie far from it.
BULK, MOST_FAR = 1000, 0.01
#: Pairs, in nanoseconds, below which nothing else is tried in one and two dimensions, and how many times that is in three. Of n
#: particles and as many targets that is n = 1800 in float32 and 1050 in float64; in three dimensions 3700 and 2100.
LEAST, LEAST_IN_THREE = 2e6, 4
#: The tolerance of commands and estimators that are given none: sums within it, where they are offered and quicker.
USUAL = 1e-4
#: Tolerances below which exact sums in float32 are no measure.
SINGLE_TOLERANCE = 1e-5
#: In each dimension: the error of a tree of degree 0, as seen on kernels with a kink, and the highest degree. Each further degree
#: divides the error by about the first rate; a degree that failed is raised by the second.
TREE_ERROR, MOST_DEGREE, TREE_RATE, RAISED_RATE = {1: 1.0, 2: 0.4, 3: 1.0}, {1: 24, 2: 16, 3: 8}, 5.7, 4.0
#: Trees that are tried.
TREES = 3
#: The part of what a pair may be off by, below which it is left out of a tree.
NEGLIGIBLE = 0.01
#: Extents beyond which squares leave the range of float64.
MOST_EXTENT = 1e150


@dataclass
class FastSums:
    """What the sums in a block of ``backend("fast", tolerance)`` did; the block's value.

    Attributes:
        tolerance: of each sum: the root mean square of its error over that of the result.
        strict: whether kernels and dimensions that are not offered are refused; else their sums are exact.
        error: the largest such error, as measured on samples of the points, of the sums that were taken from grids or trees.
        grids: how many sums were taken from grids.
        trees: how many sums were taken from trees.
        exact: how many sums were exact.
        nodes: of the largest grid.
        reason: why the last of these was exact.
    """

    tolerance: float
    strict: bool = True
    error: float = 0.0
    grids: int = 0
    trees: int = 0
    exact: int = 0
    nodes: int = 0
    reason: str = ""

    @property
    def quick(self) -> int:
        """How many sums were taken from grids or trees."""
        return self.grids + self.trees

    def counts(self) -> dict[str, float]:
        """Return the numbers of sums and the errors, as the report of a run holds them."""
        return {"tolerance": self.tolerance, "error": self.error, "quick": self.quick, "exact": self.exact}

    def include(self, other: FastSums) -> None:
        """Count what another block did as done here."""
        self.error = max(self.error, other.error)
        self.grids, self.trees = self.grids + other.grids, self.trees + other.trees
        self.exact, self.nodes = self.exact + other.exact, max(self.nodes, other.nodes)
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
    if term is None:
        raise InputError(
            f"backend = 'fast' with kernel = {type(kernel).__name__} in dimension {dim}: must be Gaussian, Laplace, Matern, "
            f"Riesz, InverseMultiquadric, RationalQuadratic or a mixture; take 'auto', whose sums are exact"
        )


@dataclass(frozen=True)
class Sums:
    """What is to be summed: the arguments of `add` of a backend, and that function.

    Attributes:
        exact: (profile, x, y, weights, values, slopes) -> None; adds exact sums to `values` [n] and `slopes` [n, d] unless None.
        term: of the kernel.
        x: where sums are wanted, [n, d].
        y: the points, [m, d].
        weights: of the points, [m].
    """

    exact: Callable[[Profile, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], None]
    term: Term
    x: Tensor
    y: Tensor
    weights: Tensor

    @property
    def profile(self) -> Profile:
        """Of the kernel."""
        return self.term.profile

    @property
    def pair_cost(self) -> float:
        """The time of a pair, in nanoseconds."""
        return PAIR * DEARER.get(type(self.profile), 1.0) * (1 if self.x.dtype == torch.float32 else 3)

    @property
    def exact_cost(self) -> float:
        """The time of the exact sums, in nanoseconds."""
        return self.pair_cost * len(self.x) * len(self.y)

    def sample(self, rows: Tensor, tolerance: float, values: bool, slopes: bool) -> list[Tensor]:
        """Return the exact sums at a few points, in float64 where float32 has no digits to spare."""
        x, y, weights = self.x[rows], self.y, self.weights
        if tolerance < SINGLE_TOLERANCE:
            x, y, weights = x.double(), y.double(), weights.double()
        value, slope = x.new_zeros(len(x), dtype=torch.float64), torch.zeros_like(x, dtype=torch.float64)
        self.exact(self.profile, x, y, weights, value, slope)  # both, as trees take them: a loop less to compile
        return ([value] if values else []) + ([slope] if slopes else [])


@dataclass(frozen=True)
class Goal:
    """What sums have to keep: exact sums at a sample of the points, and what a pair may be off by.

    Attributes:
        rows: of the sample.
        truth: the exact values or slopes at them, or both.
        sizes: the root mean squares of these.
        value: what the value of a pair may be off by, if errors do not cancel; infinite where values are not wanted.
        slope: and slope times distance.
        box: around all points.
    """

    rows: Tensor
    truth: list[Tensor]
    sizes: list[float]
    value: float
    slope: float
    box: Box

    @classmethod
    def of(cls, sums: Sums, tolerance: float, values: bool, slopes: bool) -> Goal | str:
        """Return the goal, or why no sums but exact ones are tried."""
        box = Box.of(sums.x, sums.y)
        if not all(math.isfinite(extent) for extent in box.extents):
            return "not all points are finite"
        rows = torch.from_numpy(np.random.default_rng(0).permutation(len(sums.x))[:SAMPLE]).to(sums.x.device)
        truth = sums.sample(rows, tolerance, values, slopes)
        sizes = [float(total.square().mean().sqrt()) for total in truth]
        mass = float(sums.weights.abs().double().sum())
        if not all(0 < size < math.inf for size in (*sizes, mass)):
            return "the sums on the sample vanish or are not finite"
        value = tolerance * sizes[0] / mass if values else math.inf
        slope = tolerance * sizes[-1] / mass if slopes else math.inf
        return cls(rows, truth, sizes, value, slope, box)

    def error(self, parts: list[Tensor]) -> float:
        """Return the error of sums at the sample, relative to their size."""
        errors = [
            float((part[self.rows] - true).square().mean().sqrt() / size)
            for part, true, size in zip(parts, self.truth, self.sizes, strict=True)
        ]
        return max(errors) if all(math.isfinite(error) for error in errors) else math.inf


#: A way to add sums that keep a goal to `values` and `slopes`: it returns nothing, or why it did not.
Way: TypeAlias = Callable[[FastSums, Sums, Goal, "Tensor | None", "Tensor | None"], str]


def add(report: FastSums, sums: Sums, values: Tensor | None, slopes: Tensor | None) -> None:
    """Add the sums within the tolerance to `values` [n] and `slopes` [n, d], each unless None, and note in the report how."""
    dim, reason = sums.x.shape[1], "sums on the line are exact and as quick"
    if dim > MOST_DIM:
        reason = f"dimension {dim} has exact sums alone"
    elif dim > 1 or not isinstance(sums.profile, Swept):
        reason = _quickly(report, sums, values, slopes)
    if reason:
        report.exact += 1
        report.reason = reason
        sums.exact(sums.profile, sums.x, sums.y, sums.weights, values, slopes)


def _quickly(report: FastSums, sums: Sums, values: Tensor | None, slopes: Tensor | None) -> str:
    """Add the sums by the first way that keeps the tolerance and return nothing, or return why none does."""
    if sums.exact_cost < LEAST * (LEAST_IN_THREE if sums.x.shape[1] == 3 else 1):
        return "exact sums are quicker for so few points"
    goal, reason = Goal.of(sums, report.tolerance, values is not None, slopes is not None), ""
    ways: list[Way] = [_on_grid, _by_tree] if isinstance(sums.profile, Exponential) else [_by_tree]
    for way in ways:
        failed = goal if isinstance(goal, str) else way(report, sums, goal, values, slopes)
        if not failed:
            return ""
        bulk = _bulk(sums)
        if bulk is not None and not _in_bulk(report, sums, bulk, way, values, slopes):
            return ""
        reason = reason or failed
    return reason


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
    way: Way,
    values: Tensor | None,
    slopes: Tensor | None,
) -> str:
    """Add the sums of the bulk in that way, and those of a few points far out exactly; else return why it will not do."""
    near_x, near_y = bulk
    inner = Sums(sums.exact, sums.term, sums.x[near_x], sums.y[near_y], sums.weights[near_y])
    parts = [None if total is None else total.new_zeros(len(inner.x), *total.shape[1:]) for total in (values, slopes)]
    goal = Goal.of(inner, report.tolerance, values is not None, slopes is not None)
    reason = goal if isinstance(goal, str) else way(report, inner, goal, *parts)
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


def _on_grid(report: FastSums, sums: Sums, goal: Goal, values: Tensor | None, slopes: Tensor | None) -> str:
    """Add sums of a Gaussian from a grid."""
    x, y, dim = sums.x, sums.y, sums.x.shape[1]
    assert isinstance(sums.profile, Exponential)
    bandwidth = math.sqrt(-LOG2E / (2 * sums.profile.rate))
    totals, reason = [total for total in (values, slopes) if total is not None], ""
    for share in SHARES:
        bounds = share * goal.value, share * goal.slope / bandwidth
        grid, cost = cheapest(goal.box, bandwidth, bounds, (len(x), len(y)), len(totals))
        if grid is None:
            return reason or "the tolerance needs a finer grid than is offered"
        if cost > sums.exact_cost:
            return reason or "exact sums are quicker than so fine a grid"
        results = grid.sums(x, y, sums.weights, values=values is not None, slopes=slopes is not None)
        parts = ([results[0]] if values is not None else []) + ([results[-dim:].T] if slopes is not None else [])
        error = goal.error(parts)
        if error <= MEASURED * report.tolerance:
            report.grids, report.error = report.grids + 1, max(report.error, error)
            report.nodes = max(report.nodes, grid.nodes)
            for total, part in zip(totals, parts, strict=True):
                total.add_(part)
            return ""
        reason = f"the error on a sample of the points was {error:.1e}"
    return reason


def _by_tree(report: FastSums, sums: Sums, goal: Goal, values: Tensor | None, slopes: Tensor | None) -> str:
    """Add sums of a radial kernel by the fast multipole method."""
    if sums.x.device.type != "cpu":
        return "trees are for the CPU"
    if max(goal.box.extents) > MOST_EXTENT:
        return "the points lie too far apart"
    from mmdflow.ops.tree import Tree, least_cost  # numba is loaded with the first large sum

    if least_cost(len(sums.x) + len(sums.y)) > sums.exact_cost:
        return "exact sums are quicker than a tree"
    dim = sums.x.shape[1]
    aim, reason = MEASURED * report.tolerance, ""
    degree = max(2, math.ceil(math.log(TREE_ERROR[dim] / aim) / math.log(TREE_RATE)))
    for trial in range(TREES):
        if degree > MOST_DEGREE[dim]:
            return reason or "the tolerance needs a higher degree than is offered"
        tree, single = Tree.over(sums.x, sums.y, degree), trial == 0 and report.tolerance >= SINGLE_TOLERANCE
        if tree.cost(sums.pair_cost, single) > sums.exact_cost:
            return reason or "exact sums are quicker than a tree"
        parts = [None if total is None else torch.zeros_like(total) for total in (values, slopes)]
        negligible = NEGLIGIBLE * goal.value, NEGLIGIBLE * goal.slope
        tree.sums(sums.term, sums.weights, *parts, negligible=negligible, single=single)
        error = goal.error([part for part in parts if part is not None])
        if error <= aim:
            report.trees, report.error = report.trees + 1, max(report.error, error)
            for total, part in zip((values, slopes), parts, strict=True):
                if total is not None and part is not None:
                    total.add_(part)
            return ""
        reason = f"the error on a sample of the points was {error:.1e}"
        rise = math.log(error / aim) / math.log(RAISED_RATE) if error < math.inf else MOST_DEGREE[dim]
        degree += max(1, math.ceil(rise))
    return reason


def cheapest(
    box: Box, bandwidth: float, bounds: tuple[float, float], clouds: tuple[int, int], results: int
) -> tuple[Grid | None, float]:
    """Return the cheapest grid over a box whose errors are at most the bounds, or None, and the nanoseconds of its sums.

    Args:
        box: around all points.
        bandwidth: of the Gaussian.
        bounds: on the error of a pair's value and of its slope; infinite for what is not wanted.
        clouds: how many points sums are wanted at, and over how many they go.
        results: 2 for values and slopes, else 1.
    """
    grids, least, dim = [], min(bounds), len(box.extents)
    dtype = torch.float32 if least > SINGLE else torch.float64
    for order in spline_grid.ORDERS:
        ratio = spline_grid.spacing(order, dim, bounds[0] / 2, bounds[1] / 2)  # the other half is for the images
        if ratio is not None:
            grid = spline_grid.around(box, bandwidth, ratio, order, min(least / 2, MOST_TAIL), dtype)
            if grid.nodes <= MOST_NODES:
                grids.append((_cost(grid, clouds, results), grid))
    if not grids:
        return None, math.inf
    cost, grid = min(grids, key=lambda pair: pair[0])
    return grid, cost


def _cost(grid: Grid, clouds: tuple[int, int], results: int) -> float:
    """Return the time of the sums on a grid, in nanoseconds."""
    dim, (wanted, given) = len(grid.sizes), clouds
    fields, shares = dim + results - 1, SHARE * grid.order**dim
    points = (POINT + shares) * given + (POINT + fields * shares) * wanted
    return (points + NODE * (1 + fields) * grid.nodes) * (1 if grid.dtype == torch.float32 else 2)
