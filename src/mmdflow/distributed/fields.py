"""Divergences of particles and targets that lie in parts on the ranks.

Particles, velocities, witness values and targets are those of this rank; F is that of all.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mmdflow import ops
from mmdflow._precision import widened
from mmdflow.distributed.base import ShardedDivergence
from mmdflow.distributed.grids import gaussian_sums
from mmdflow.distributed.ranks import Ranks, Rows
from mmdflow.distributed.sliced import ShardedSlicedMMD
from mmdflow.distributed.targets import check_uniform, common_spread
from mmdflow.divergences import MMD, SlicedMMD, VelocityField
from mmdflow.divergences.witness import EmbeddingWitness, KernelWitness, Witness
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel, Mixture
from mmdflow.ops.fast import FastSums
from mmdflow.types import Particles, Points, Step, Weights


def shard(field: VelocityField, ranks: Ranks) -> VelocityField:
    """Return the field whose target is that of all ranks, for a field that holds this rank's part of it.

    On one rank it is the field itself.

    Raises:
        InputError: for a field that has no such form: other divergences than MMD and SlicedMMD, a target with weights.

    Example:
        >>> import torch
        >>> from mmdflow import MMD
        >>> from mmdflow.distributed import Ranks, shard
        >>> field = MMD(torch.zeros(3, 2))
        >>> shard(field, Ranks()) is field
        True
    """
    if ranks.size == 1 or isinstance(field, ShardedDivergence):
        return field
    if type(field) is MMD:
        return ShardedMMD(field, ranks)
    if type(field) is SlicedMMD:
        return ShardedSlicedMMD(field, ranks)
    raise InputError(
        f"sharded = True with field {type(field).__name__}: must be MMD or SlicedMMD; others need all points on one rank"
    )


class ShardedMMD(ShardedDivergence):
    """`MMD` of particles and target that lie in parts on the ranks.

    Sums over pairs go round the ring: each rank holds its own points and those of one other, O((n + m) / ranks), and computes
    n (n + m) / ranks pairs. With a tolerance, Gaussians in up to three dimensions add up one grid (`grids`). Kernels with a
    finite feature map exchange mean embeddings alone.

    Args:
        local: the divergence to this rank's part of the target.
        ranks: the ranks.
    """

    local: MMD

    def __init__(self, local: MMD, ranks: Ranks) -> None:
        super().__init__(local, ranks)
        self.kernel = local.kernel
        if local.target_mean is None:
            check_uniform(local.target_weights)
            self.rows = Rows.of(ranks, len(local.target))
        elif local.num_targets is None:
            raise InputError("sharded = True with a target mean: must hold samples, whose number is the rank's share")
        else:
            self.rows = Rows.of(ranks, local.num_targets)

    def usual_step(self) -> Step | None:
        """Return the step of the MMD to all of the target."""
        if self.local.target_mean is not None:
            return self.local.usual_step()
        return self.kernel.usual_step(common_spread(self.local.target, self.ranks))

    def forward(self, x: Particles, weights: Weights | None = None) -> Tensor:
        """Return F of the particles of all ranks; it has no gradient."""
        with torch.no_grad():
            weights = self._weights(x, weights).double()
            if self.local.target_mean is not None:
                return (self._difference(x, weights).square().sum() / 2).to(x.dtype)
            attraction = self._sum(x, self.target, self._target_weights)
            repulsion = self._sum(x, x, weights)
            energy = self.ranks.total(weights @ (repulsion / 2 - attraction))
            return (energy + self._target_self / 2).to(x.dtype)

    def witness(self, x: Particles, weights: Weights | None = None) -> Witness:
        """Return f, frozen at the particles of all ranks: each evaluation is made by all ranks together."""
        with torch.no_grad():
            weights = self._weights(x, weights)
            if self.local.target_mean is not None:
                return EmbeddingWitness(self.kernel, self._difference(x, weights.double()).to(widened(x)))
            frozen = self.local.witness(x)
            assert isinstance(frozen, KernelWitness)
            signed = torch.cat([weights.to(frozen.weights), -self._target_weights.to(frozen.weights)])
            return _RingWitness(self.local, self.ranks, frozen.points, signed)

    @property
    def _target_weights(self) -> Tensor:
        return self.target.new_full((self.rows.count,), 1 / self.rows.total, dtype=torch.float64)

    @functools.cached_property
    def _target_self(self) -> Tensor:
        """The mean of the kernel over all pairs of the target."""
        weights = self._target_weights
        return self.ranks.total(weights @ self._sum(self.target, self.target, weights))

    @functools.cached_property
    def _target_mean(self) -> Tensor:
        """The mean embedding of the whole target, in float64."""
        assert self.local.target_mean is not None
        own = self.local.target_mean.double() + self.local.target_rest.double()
        return self.ranks.total(own * (self.rows.count / self.rows.total))

    def _weights(self, x: Tensor, weights: Tensor | None) -> Tensor:
        if weights is not None:
            return weights
        return widened(x).new_full((len(x),), 1 / sum(self.ranks.counts(len(x))))

    def _difference(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return E_nu psi(x) - E_mu psi(y), in float64."""
        return self.ranks.total(weights @ (self.kernel.embed(x).double() - self._target_mean))

    def _sum(self, z: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        """Return the sum of the kernel over the points of all ranks at each of this rank's z, in float64."""
        points = self.local.wide(points)
        witness = _RingWitness(self.local, self.ranks, points, weights.to(widened(points)))
        return witness(self.local.wide(z)).double()


class _RingWitness:
    """f(z) = sum_j weights_j k(z, points_j) over the points of all ranks."""

    def __init__(self, local: MMD, ranks: Ranks, points: Tensor, weights: Tensor) -> None:
        self.local, self.ranks, self.points, self.weights = local, ranks, points, weights

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z_i)."""
        return self._sum(self.local.kernel, z, slopes=False)

    def grad(self, z: Points) -> Points:
        """Return grad f(z_i)."""
        return self._sum(self.local.kernel, z, slopes=True)

    def _sum(self, kernel: Kernel, z: Tensor, *, slopes: bool) -> Tensor:
        """Return the sum, or its gradient, in z's dtype: from one grid where a tolerance allows it, else over the ring."""
        with ops.within(self.local.tolerance), ops.exactly() as report, torch.no_grad():
            if report is None:
                return self._over_ring(kernel, z, slopes=slopes).to(z.dtype)
            return self._within(report, kernel, z.to(self.points.dtype), slopes=slopes).to(z.dtype)

    def _within(self, report: FastSums, kernel: Kernel, z: Tensor, *, slopes: bool) -> Tensor:
        if isinstance(kernel, Mixture):
            return kernel.sum_by_parts(lambda part, x, _: self._within(report, part, x, slopes=slopes), z, self.points)
        quick = gaussian_sums(self.ranks, kernel, z, self.points, self.weights, report, slopes=slopes)
        report.exact += quick is None
        return self._over_ring(kernel, z, slopes=slopes) if quick is None else quick

    def _over_ring(self, kernel: Kernel, z: Tensor, *, slopes: bool) -> Tensor:
        total = torch.zeros_like(z if slopes else z.flatten(1)[:, 0], dtype=torch.float64)
        for points, weights in self.ranks.ring(self.points, self.weights):
            part = KernelWitness(kernel, points, weights)
            total += part.grad(z) if slopes else part(z)
        return total
