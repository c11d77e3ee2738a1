"""What DMMD's loss maximises at every noise level, and the witness that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow.divergences.functional import mmd2
from mmdflow.errors import InputError
from mmdflow.methods.dmmd.pairings import BatchFeatures, Pairing
from mmdflow.noise import NoiseConditionalKernel, NoiseConditionalWitness, clamped_exp


@dataclass(frozen=True)
class Gain:
    """The value of an objective and its witness at the penalty's points.

    The witness is the inner product of `values` with `weights`, which are kept apart: they hold means of features that may be
    those of the points, and the gradient in the points must not reach them.

    Attributes:
        gain: what is maximised, at each level, [L].
        values: at the points, [L, n] or [L, n, K].
        weights: of the values, of the same shape.
    """

    gain: Float[Tensor, " L"]
    values: Float[Tensor, "L n *K"]
    weights: Float[Tensor, "L n *K"]


class Objective:
    """What is maximised. Derive from it for one of your own."""

    #: What `LossSettings.objective` calls it.
    name: ClassVar[str]

    def check(self, kernel: NoiseConditionalKernel) -> None:
        """Raise InputError for a kernel that it cannot work with."""

    def __call__(
        self, kernel: NoiseConditionalKernel, features: BatchFeatures, levels: Float[Tensor, " L"], pairing: Pairing
    ) -> Gain:
        """Return the value at each level and the witness at the penalty's points.

        Args:
            kernel: the kernel that is learned.
            features: of clean and noised events and of the points.
            levels: noise levels, [L].
            pairing: what made the features.
        """
        raise NotImplementedError


class MMDObjective(Objective):
    """The unbiased MMD^2 of noised and clean events, and f(z) = mean_noisy k_t(., z) - mean_clean k_t(., z)."""

    name = "mmd"

    def __call__(
        self, kernel: NoiseConditionalKernel, features: BatchFeatures, levels: Float[Tensor, " L"], pairing: Pairing
    ) -> Gain:
        """Return the MMD^2 and the witness: in O(n) where every level's base kernel has a finite feature map.

        Raises:
            InputError: for shared pairing with a base kernel that has none.
        """
        embedded = _embedded(kernel, torch.cat([features.clean, features.noisy, features.at_points], 1), levels)
        if embedded is not None:
            m = features.clean.shape[1]
            return self._of_means(embedded[:, :m], embedded[:, m : 2 * m], embedded[:, 2 * m :], pairing)
        if pairing.shares_points:
            raise InputError(
                f"pairing = {pairing.name!r}: needs a base kernel with finite features (linear); use 'paired'"
            )
        return self._of_pairs(kernel, features, levels, pairing)

    def _of_means(
        self,
        clean: Float[Tensor, "L m K"],
        noisy: Float[Tensor, "L m K"],
        points: Float[Tensor, "L n K"],
        pairing: Pairing,
    ) -> Gain:
        m = clean.shape[1]
        weights = noisy.mean(1) - clean.mean(1)
        cross = (clean.sum(1) * noisy.sum(1)).sum(1)
        if pairing.same_events:
            cross = (cross - (clean * noisy).sum((1, 2))) * m / (m - 1)
        gain = mean_of_pairs(clean) + mean_of_pairs(noisy) - 2 * cross / m**2
        return Gain(gain, points, weights[:, None].expand_as(points))

    def _of_pairs(
        self,
        kernel: NoiseConditionalKernel,
        features: BatchFeatures,
        levels: Float[Tensor, " L"],
        pairing: Pairing,
    ) -> Gain:
        gains, values = [], []
        m = features.noisy.shape[1]
        weights = torch.cat([features.noisy.new_full((m,), 1.0), features.clean.new_full((m,), -1.0)])
        for c, x, z, t in zip(features.clean, features.noisy, features.at_points, levels, strict=True):
            base = kernel.base_at(t)
            gain = mmd2(x, c, base)
            if pairing.same_events:  # the cross term of mmd2 holds the pairs of an event with itself
                gram = base(x, c)
                gain = gain + 2 * (gram.diagonal().mean() - gram.mean()) / (len(c) - 1)
            gains.append(gain)
            values.append(ops.kernel_sum(base, z, torch.cat([x, c]), weights / len(c)))
        witness = torch.stack(values)
        return Gain(torch.stack(gains), witness, torch.ones_like(witness))


class KLBound(Objective):
    """A lower bound of KL(P_t | P), of a learned witness h (DMMD paper, section D; Glaser, Arbel, Gretton 2021).

    KL(P_t | P) >= (1 + lambda) (1 + E_{P_t} h - E_P e^h - lambda/2 |a_t|^2), h(x, t) = <phi(x, t), a_t>. Particles flow along h.

    Args:
        ridge: lambda.
    """

    name = "kl"

    def __init__(self, ridge: float = 0.0) -> None:
        self.ridge = _checks.non_negative("ridge", ridge)

    def check(self, kernel: NoiseConditionalKernel) -> None:
        """Raise InputError for a kernel without a learned witness."""
        if not isinstance(kernel, NoiseConditionalWitness):
            raise InputError(
                f"objective = {self.name!r} with kernel = {type(kernel).__name__}: needs a NoiseConditionalWitness"
            )

    def __call__(
        self, kernel: NoiseConditionalKernel, features: BatchFeatures, levels: Float[Tensor, " L"], pairing: Pairing
    ) -> Gain:
        """Return the bound and h."""
        noisy, clean, points, norm = self._heights(kernel, features, levels)
        return Gain(self._bound(noisy, clean, norm), points, torch.ones_like(points))

    def _heights(
        self, kernel: NoiseConditionalKernel, features: BatchFeatures, levels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return h on noisy and clean events and at the points, and |a_t|^2."""
        assert isinstance(kernel, NoiseConditionalWitness)
        direction = kernel.direction(levels)[:, None]
        noisy, clean, points = (
            (phi * direction).sum(2) for phi in (features.noisy, features.clean, features.at_points)
        )
        return noisy, clean, points, direction.square().sum((1, 2))

    def _bound(self, upper: Tensor, lower: Tensor, norm: Tensor) -> Tensor:
        """Return the bound of KL(upper | lower)."""
        ridge = self.ridge / 2 * norm
        return (1 + self.ridge) * (1 + upper.mean(1) - clamped_exp(lower).mean(1) - ridge)


class ReverseKLBound(KLBound):
    """The bound of KL(P | P_t), which has clean and noised events changed over. Particles flow along -e^h."""

    name = "reverse-kl"

    def __call__(
        self, kernel: NoiseConditionalKernel, features: BatchFeatures, levels: Float[Tensor, " L"], pairing: Pairing
    ) -> Gain:
        """Return the bound and -e^h."""
        noisy, clean, points, norm = self._heights(kernel, features, levels)
        return Gain(self._bound(clean, noisy, norm), -clamped_exp(points), torch.ones_like(points))


def mean_of_pairs(psi: Float[Tensor, "L n K"]) -> Float[Tensor, " L"]:
    r"""Return the mean of <psi_i, psi_j> over pairs i != j, in O(n).

    sum_{i != j} <psi_i, psi_j> = |sum_i psi_i|^2 - sum_i |psi_i|^2, over n (n - 1) pairs.
    """
    n = psi.shape[1]
    return (psi.sum(1).square().sum(1) - psi.square().sum((1, 2))) / (n * (n - 1))


def _embedded(kernel: NoiseConditionalKernel, phi: Float[Tensor, "L m K"], levels: Tensor) -> Tensor | None:
    """Return the base kernels' feature maps of phi, [L, m, K'], where they have finite ones."""
    bases = [kernel.base_at(t) for t in levels]
    if not all(base.finite for base in bases):
        return None
    return torch.stack([base.embed(level) for base, level in zip(bases, phi, strict=True)])
