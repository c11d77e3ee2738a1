"""The sliced MMD of particles and target that lie in parts on the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmdflow._precision import widened
from mmdflow._tensors import flat
from mmdflow.distributed.base import ShardedDivergence
from mmdflow.distributed.ranks import Ranks, Rows
from mmdflow.distributed.targets import check_uniform, common_mean, common_spread
from mmdflow.divergences import SlicedMMD
from mmdflow.divergences.witness import Witness
from mmdflow.errors import InputError
from mmdflow.ops import slices
from mmdflow.types import Particles, Step, Weights

#: Projections that a rank holds at a time, unless one direction of all points is more.
BLOCK = 2**24


class ShardedSlicedMMD(ShardedDivergence):
    """`SlicedMMD` of particles and target that lie in parts on the ranks.

    Each rank projects its own points on all directions, and gets the projections of all points on its share of them: it sorts
    whole lines, exactly as one process does, and gives the slopes back. What it holds beside its points is one line at least,
    n + m numbers, which is 1/d of all points.

    Args:
        local: the divergence to this rank's part of the target. The directions of rank 0 count.
        ranks: the ranks.

    Raises:
        InputError: for exponents other than 1, whose lines are summed over all pairs; for weights of the target.
    """

    local: SlicedMMD

    def __init__(self, local: SlicedMMD, ranks: Ranks) -> None:
        super().__init__(local, ranks)
        if local.line.pairwise:
            raise InputError(f"exponent = {local.exponent!r} with sharded = True: must be 1, or a smooth kernel")
        check_uniform(local.target_weights)
        self.rows = Rows.of(ranks, len(local.target))
        self.centre = common_mean(local.target, ranks).to(local.centred)
        self.centred = local.centred + (local.centre - self.centre)
        local.xi = ranks.from_first(local.xi)
        self.rank_error = 0.0

    def usual_step(self) -> Step | None:
        """Return the step of the sliced MMD to all of the target."""
        return self.local.usual_step_at(common_spread(self.local.target, self.ranks))

    def forward(self, x: Particles, weights: Weights | None = None) -> Tensor:
        """Return F of the particles of all ranks with the directions of the last draw; it has no gradient."""
        with torch.no_grad():
            return _Lines(self, x, weights).value().to(x.dtype)

    def witness(self, x: Particles, weights: Weights | None = None) -> Witness:
        """Return the witness, frozen at the particles of all ranks: each evaluation is made by all ranks together."""
        return _Lines(self, x, weights)

    def velocity(self, x: Particles, at: Particles | None = None, weights: Weights | None = None) -> Particles:
        """Return -grad f, with f frozen at the particles of all ranks, evaluated at this rank's `at` (default x)."""
        if self.local.redraw:
            self.local.draw()
            self.local.xi = self.ranks.from_first(self.local.xi)
        lines = _Lines(self, x, weights)
        velocity = lines.grad(x if at is None else at).neg_()
        self.rank_error = lines.rank_error
        return velocity


class _Lines:
    """f(z) = c mean_p [ sum_i w_i k(<xi, z>, <xi, x_i>) - sum_j q_j k(<xi, z>, <xi, y_j>) ], line by line on the ranks."""

    def __init__(self, sharded: ShardedSlicedMMD, x: Tensor, weights: Tensor | None) -> None:
        self.sharded, self.ranks, self.local = sharded, sharded.ranks, sharded.local
        self.x, self.counts = self._centred(x), self.ranks.counts(len(x))
        n = sum(self.counts)
        self.weights = self.x.new_full((n,), 1 / n) if weights is None else self.ranks.gather(weights.to(self.x))
        m = sharded.rows.total
        self.target_weights = self.x.new_full((m,), 1 / m)
        self.target_counts = self.ranks.counts(sharded.rows.count)
        norms = slices.norms(torch.cat([self.x, sharded.centred]))
        self.radius = -float(self.ranks.least(-norms.max()))
        self.squares = float(self.ranks.total(norms.double().square().sum()))
        self.mean_norm = float(self.ranks.total(norms.double().sum())) / (n + m)
        self.tie = 4 * torch.finfo(norms.dtype).eps * min(self.radius, 16 * self.mean_norm)
        self.rank_error = 0.0  #: a bound on the error that binned ranks added to the last gradient

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z_i)."""
        total = self.x.new_zeros(len(z))
        for block in self._blocks(self._centred(z)):
            total += block.back(self._potential(block, block.z)).sum(0)
        return (total * self._scale).to(z.dtype)

    def grad(self, z: Tensor) -> Tensor:
        """Return grad f(z_i); 0 from points that coincide with z_i."""
        total, bound = torch.zeros_like(flat(z), dtype=self.x.dtype), 0.0
        for block in self._blocks(self._centred(z)):
            slopes, bounds = self._slopes(block)
            total += slices.product(block.back(slopes).T, block.xi, self._half)
            bound += float(self.ranks.total(bounds.double().sum()))
        self.rank_error = bound * self._scale
        return (total * self._scale).to(z.dtype).reshape(z.shape)

    def value(self) -> Tensor:
        """Return F = (E_x f - E_y f) / 2, in float64: each rank adds up its own lines."""
        total = self.x.new_zeros((), dtype=torch.float64)
        for block in self._blocks(self.x[:0]):
            at_x, at_y = (self._potential(block, z).double() for z in (block.x, block.y))
            total += (at_x @ self.weights.double() - at_y @ self.target_weights.double()).sum()
        return self.ranks.total(total) * (self._scale / 2)

    @property
    def _scale(self) -> float:
        return self.local.scale / len(self.local.xi)

    @property
    def _half(self) -> bool:
        return self.local.precision == "bfloat16"

    def _centred(self, points: Tensor) -> Tensor:
        return flat(widened(points)) - self.sharded.centre

    def _blocks(self, z: Tensor) -> Iterator[_Block]:
        """Yield the lines of this rank, some directions at a time: as many numbers as fit, and one line a rank at least."""
        z_counts = self.ranks.counts(len(z))
        size = sum(self.counts) + self.sharded.rows.total + sum(z_counts)
        rows = self.ranks.size * max(1, BLOCK // size)
        for xi in self.local.xi.split(rows):
            clouds = [(z, z_counts), (self.x, self.counts), (self.sharded.centred, self.target_counts)]
            yield _Block(self.ranks, xi, clouds, self._half)

    def _potential(self, block: _Block, z: Tensor) -> Tensor:
        of = self.local.line.potential
        return of(z, block.x, self.weights, self.tie) - of(z, block.y, self.target_weights, self.tie)

    def _slopes(self, block: _Block) -> tuple[Tensor, Tensor]:
        """Return the slopes at every z of this rank's lines, and bounds on what binning added."""
        z, x, y = block.z, (block.x, self.weights), (block.y, self.target_weights)
        exact, of = z.new_zeros(len(z)), self.local.line.slope
        if of is not None:
            return of(z, *x, self.tie) - of(z, *y, self.tie), exact
        count = sum(self.counts) + self.sharded.rows.total
        limit = min(self.radius, 8 * (self.squares / count / self.x.shape[1]) ** 0.5)
        if self.local.ranks != "binned" or limit <= 0 or not len(z):
            return sorted_slopes(z, x, y, self.tie), exact
        slopes, bounds = slices.binned_slopes(z, x, y, limit)
        rest = bounds > slices.TOLERANCE
        if bool(rest.any()):
            on_x, on_y = ((points[rest], weights) for points, weights in (x, y))
            slopes[rest], bounds[rest] = sorted_slopes(z[rest], on_x, on_y, self.tie), 0.0
        return slopes, bounds


def sorted_slopes(z: Tensor, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], tie: float) -> Tensor:
    """Return the slopes of -|s - t| of the measure x - y at each z by sorting; x and y are projections and weights."""
    values, order = z.sort(1)
    slopes = slices.Ordered(*x, tie).slopes(values) - slices.Ordered(*y, tie).slopes(values)
    return torch.empty_like(values).scatter_(1, order, slopes)


class _Block:
    """Some directions: projections of this rank's points on all of them become those of all points on its share.

    Attributes:
        xi: the directions, [P, d].
        z: projections of the places where slopes are wanted, on this rank's directions, [p, k].
        x: of the particles, [p, n].
        y: of the target's samples, [p, m].
    """

    def __init__(self, ranks: Ranks, xi: Tensor, clouds: Sequence[tuple[Tensor, list[int]]], half: bool) -> None:
        self.ranks, self.xi, self.shares = ranks, xi, [Ranks(r, ranks.size).part(len(xi)) for r in range(ranks.size)]
        self.z, self.x, self.y = (self._lines(slices.product(xi, points.T, half), counts) for points, counts in clouds)
        self.counts = clouds[0][1]

    def _lines(self, projections: Tensor, counts: list[int]) -> Tensor:
        own = self.shares[self.ranks.rank]
        shapes = [(own.stop - own.start, count) for count in counts]
        return torch.cat(self.ranks.exchange([projections[share] for share in self.shares], shapes), 1)

    def back(self, at_z: Tensor) -> Tensor:
        """Return what all ranks found on their lines at this rank's z, [P, k]."""
        count = self.counts[self.ranks.rank]
        shapes = [(share.stop - share.start, count) for share in self.shares]
        return torch.cat(self.ranks.exchange(list(at_z.split(self.counts, 1)), shapes), 0)
