"""Which events of a batch stand for clean and for noised data in the MMD of DMMD's loss, and how features serve both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.errors import InputError
from mmdflow.methods.dmmd.penalty_points import NoisedBatch, PenaltyPoints
from mmdflow.noise import NoiseConditionalKernel


@dataclass(frozen=True)
class BatchFeatures:
    """The features of a training step.

    Attributes:
        points: where the penalties hold, with gradient, [B, *event].
        at_points: phi of the points, [L, n, K].
        clean: phi of clean events, [L, m, K].
        noisy: phi of noised events, [L, m, K].
    """

    points: Float[Tensor, "B *event"]
    at_points: Float[Tensor, "L n K"]
    clean: Float[Tensor, "L m K"]
    noisy: Float[Tensor, "L m K"]


class Pairing:
    """How the clean and the noised sample of a level are made of its events. Derive from it for one of your own."""

    #: What `LossSettings.pairing` calls it.
    name: ClassVar[str]
    #: Whether an event is in both samples; the MMD's cross term then leaves out its pair with itself.
    same_events: ClassVar[bool]
    #: Whether the noisy features are those of penalty points.
    shares_points: ClassVar[bool] = False

    def check(self, points: PenaltyPoints) -> None:
        """Raise InputError for penalty points that it cannot work with."""

    def samples(
        self, clean: Float[Tensor, "L n *event"], noisy: Float[Tensor, "L n *event"]
    ) -> tuple[Float[Tensor, "L m *event"], Float[Tensor, "L m *event"]]:
        """Return the clean and the noisy sample of every level, made of its events."""
        raise NotImplementedError

    def batch(
        self, clean: Float[Tensor, "B *event"], noisy: Float[Tensor, "B *event"], levels: Float[Tensor, " L"]
    ) -> NoisedBatch:
        """Return the events of a step, with the two samples of each level."""
        return NoisedBatch(clean, noisy, levels, *self.samples(_by_level(clean, levels), _by_level(noisy, levels)))

    def features(
        self,
        kernel: NoiseConditionalKernel,
        batch: NoisedBatch,
        points: Float[Tensor, "B *event"],
    ) -> BatchFeatures:
        """Return all features that the loss needs.

        Args:
            kernel: the kernel whose features these are.
            batch: the events of the step.
            points: where the penalties hold, with gradient.
        """
        phi = kernel.features(
            torch.cat([batch.clean_sample, batch.noisy_sample], 1).flatten(0, 1),
            batch.event_levels(2 * batch.clean_sample.shape[1]),
        )
        clean, noisy = _by_level(phi.flatten(1), batch.levels).chunk(2, 1)
        return BatchFeatures(points, self._at_points(kernel, batch, points), clean, noisy)

    def _at_points(self, kernel: NoiseConditionalKernel, batch: NoisedBatch, points: Tensor) -> Float[Tensor, "L n K"]:
        return _by_level(kernel.features(points, batch.event_levels()).flatten(1), batch.levels)


class Disjoint(Pairing):
    """Half of a level's events stay clean, the other half are noised: two independent samples."""

    name = "disjoint"
    same_events = False

    def samples(self, clean: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first half of each level's events clean, the second noised."""
        half = clean.shape[1] // 2
        return clean[:, :half], noisy[:, half:]


class Paired(Pairing):
    """Every event is used clean and noised: the mean difference has less noise. Ours."""

    name = "paired"
    same_events = True

    def samples(self, clean: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Return all events twice."""
        return clean, noisy


class Shared(Pairing):
    """Paired over the events whose penalty point is x_t: one evaluation serves penalty and mean. It costs least. Ours."""

    name = "shared"
    same_events = True
    shares_points = True

    def check(self, points: PenaltyPoints) -> None:
        """Raise InputError for points that do not hold x_t of every other event."""
        if not points.holds_noisy:
            raise InputError(f"pairing = 'shared' with penalty_points = {points.name!r}: must be 'path'")

    def samples(self, clean: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Return every other event twice."""
        return clean[:, ::2], noisy[:, ::2]

    def features(
        self,
        kernel: NoiseConditionalKernel,
        batch: NoisedBatch,
        points: Float[Tensor, "B *event"],
    ) -> BatchFeatures:
        """Return features of the points, of which the noisy ones are a part, and of clean events."""
        phi = self._at_points(kernel, batch, points)
        some = batch.clean_sample
        clean = kernel.features(some.flatten(0, 1), batch.event_levels(some.shape[1])).flatten(1)
        return BatchFeatures(points, phi, _by_level(clean, batch.levels), phi[:, ::2])


def _by_level(x: Float[Tensor, "B *event"], levels: Float[Tensor, " L"]) -> Float[Tensor, "L m *event"]:
    """Return the rows of each level apart."""
    return x.view(len(levels), len(x) // len(levels), *x.shape[1:])
