"""Gaussian sums within a tolerance over the points of all ranks: each spreads its own to one grid, whose nodes are added up.

The grid is chosen as in `ops.fast`: by a bound on its error, and by exact sums at a sample of the points of all ranks, at which
the error is measured afterwards. It lies on every rank, as large as in one process; the points do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdflow import ops
from mmdflow._tensors import flat
from mmdflow.distributed.ranks import Ranks
from mmdflow.kernels import Kernel
from mmdflow.kernels.profiles import LOG2E, Exponential, Term
from mmdflow.ops import fast
from mmdflow.ops.fast import FastSums
from mmdflow.ops.spline_grid import Box, Grid


@dataclass(frozen=True)
class GridSums:
    """Sums of a Gaussian at this rank's z over the points of all ranks, all as [n, d].

    Attributes:
        ranks: the ranks.
        term: of the kernel.
        z: where sums are wanted.
        points: this rank's.
        weights: theirs.
        slopes: whether gradients of the sums are wanted, or the sums themselves.
    """

    ranks: Ranks
    term: Term
    z: Tensor
    points: Tensor
    weights: Tensor
    slopes: bool

    @property
    def bandwidth(self) -> float:
        """Of the Gaussian."""
        assert isinstance(self.term.profile, Exponential)
        return math.sqrt(-LOG2E / (2 * self.term.profile.rate))

    @property
    def factor(self) -> float:
        """What sums of exp(-r^2 / 2 b^2), or of it times x - y, are to be multiplied by."""
        return self.term.slope_factor if self.slopes else self.term.value_factor

    def within(self, report: FastSums) -> Tensor | None:
        """Return the sums, [n] or [n, d] in float64, and count them in the report; None where exact ones are better."""
        wanted, given = self.ranks.total(
            self.z.new_tensor([len(self.z), len(self.points)], dtype=torch.float64)
        ).tolist()
        pairs = fast.PAIR * wanted * given / self.ranks.size
        if pairs < fast.LEAST:
            return None
        at, truth = self._sample(report.tolerance)
        mass = float(self.ranks.from_first(self.ranks.total(self.weights.abs().double().sum())))
        size = float(self.ranks.from_first(truth.square().mean().sqrt())) / abs(self.factor)
        if not (0 < size < math.inf and 0 < mass < math.inf):
            return None
        box, clouds = self._box(), (int(wanted / self.ranks.size), int(given / self.ranks.size))
        for share in fast.SHARES:
            error = share * report.tolerance * size / mass
            bounds = (math.inf, error / self.bandwidth) if self.slopes else (error, math.inf)
            grid, cost = fast.cheapest(box, self.bandwidth, bounds, clouds, 1)
            if grid is None or cost > pairs:
                return None
            nodes = self.ranks.total(grid.spread(self.points, self.weights))
            fields = grid.fields(nodes, values=not self.slopes, slopes=self.slopes)
            off = (self._value(grid, fields, at) - truth).square().mean().sqrt()
            measured = float(self.ranks.from_first(off)) / abs(size * self.factor)
            if measured <= fast.MEASURED * report.tolerance:
                report.grids, report.error = report.grids + 1, max(report.error, measured)
                report.nodes = max(report.nodes, grid.nodes)
                return self._value(grid, fields, self.z)
        return None

    def _sample(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """Return some of the points of all ranks at which sums are wanted, and the exact sums there."""
        rows = torch.randperm(len(self.z), generator=torch.Generator().manual_seed(0))
        at = self.ranks.gather(self.z[rows[: -(-fast.SAMPLE // self.ranks.size)]])
        digits = torch.float64 if tolerance < fast.SINGLE_TOLERANCE else self.z.dtype
        given = (t.to(digits) for t in (at, self.points, self.weights))
        value, slope = ops.sums(self.term, *given, values=not self.slopes, slopes=self.slopes)
        return at, self.ranks.total((slope if self.slopes else value).double())

    def _box(self) -> Box:
        both = torch.cat([self.z, self.points])
        low, high = self.ranks.least(both.amin(0)), -self.ranks.least(-both.amax(0))
        return Box(tuple(low.tolist()), tuple((high.double() - low.double()).tolist()))

    def _value(self, grid: Grid, fields: Tensor, at: Tensor) -> Tensor:
        sums = grid.interpolate(fields, at).double() * self.factor
        return sums.T if self.slopes else sums[0]


def gaussian_sums(
    ranks: Ranks, kernel: Kernel, z: Tensor, points: Tensor, weights: Tensor, report: FastSums, *, slopes: bool
) -> Tensor | None:
    """Return the sums at this rank's z over the points of all ranks within the report's tolerance, in float64.

    None for kernels other than Gaussians in up to three dimensions, and where exact sums are quicker.
    """
    term = kernel.compiled_term(z[0].numel(), z.dtype)
    if term is None or not isinstance(term.profile, Exponential) or z[0].numel() > fast.MOST_DIM:
        return None
    made = GridSums(ranks, term, flat(z).contiguous(), flat(points).contiguous(), weights, slopes).within(report)
    return None if made is None else made.reshape(z.shape if slopes else (len(z),))
