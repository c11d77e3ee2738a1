"""Where the gradient penalties of DMMD's loss hold: one point for every event of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import along, device_of


@dataclass(frozen=True)
class NoisedBatch:
    """The events of a training step. Every one of the L levels has n = B / L events of its own, one after the other.

    Attributes:
        clean: the events x_0, [B, *event].
        noisy: the same events noised to their level, x_t, [B, *event].
        levels: noise levels, [L].
        clean_sample: events of each level that stand for clean data in the MMD, [L, m, *event].
        noisy_sample: events of each level that stand for noised data in the MMD, [L, m, *event].
    """

    clean: Float[Tensor, "B *event"]
    noisy: Float[Tensor, "B *event"]
    levels: Float[Tensor, " L"]
    clean_sample: Float[Tensor, "L m *event"]
    noisy_sample: Float[Tensor, "L m *event"]

    @property
    def events_per_level(self) -> int:
        """The events of a level, n."""
        return len(self.clean) // len(self.levels)

    def event_levels(self, count: int | None = None) -> Float[Tensor, " events"]:
        """Return the noise level of every event, or of `count` events a level."""
        return self.levels.repeat_interleave(self.events_per_level if count is None else count)


class PenaltyPoints:
    """Choose the points at which the penalties hold. Derive from it for points of your own."""

    #: What `LossSettings.penalty_points` calls it.
    name: ClassVar[str]
    #: Whether every point lies between x_0 and x_t of its own event, as the path form needs.
    on_own_path: ClassVar[bool] = True
    #: Whether the point of every other event, from the first on, is its x_t, as shared pairing needs.
    holds_noisy: ClassVar[bool] = True

    def draw(self, batch: NoisedBatch, generator: torch.Generator | None = None) -> Float[Tensor, "B *event"]:
        """Return one point an event; they need no gradient.

        Args:
            batch: the events of the step.
            generator: of the random draws.
        """
        raise NotImplementedError


class Segment(PenaltyPoints):
    """A point uniform on the segment from x_0 to x_t, for every event."""

    name = "segment"
    holds_noisy = False

    def draw(self, batch: NoisedBatch, generator: torch.Generator | None = None) -> Float[Tensor, "B *event"]:
        """Return one point an event, from one uniform number each."""
        return _between(batch, _uniform(batch, generator))


class Path(PenaltyPoints):
    """A point uniform on the segment from x_0 to x_t for one event in `every`; x_t for the others.

    Args:
        every: an even number, at least 2. With more of it, more of the regression stands where particles are; in the path form
            the MMD^2 of the step has 2 / `every` of its weight.
    """

    name = "path"

    def __init__(self, every: int = 2) -> None:
        self.every = _checks.even("every", every)

    def draw(self, batch: NoisedBatch, generator: torch.Generator | None = None) -> Float[Tensor, "B *event"]:
        """Return one point an event, from one uniform number each."""
        position = _uniform(batch, generator)
        at_x_t = torch.arange(len(position), device=position.device) % self.every != 1
        return _between(batch, position.masked_fill(at_x_t, 1))


class Interpolate(PenaltyPoints):
    """Uniform between a clean event and the noised one of another event (WGAN-GP; Gulrajani et al. 2017)."""

    name = "interpolate"
    on_own_path = False
    holds_noisy = False

    def draw(self, batch: NoisedBatch, generator: torch.Generator | None = None) -> Float[Tensor, "B *event"]:
        """Return one point an event: each level's clean sample against its noisy one in reverse order, twice over."""
        n = batch.events_per_level
        weight = _uniform(batch, generator)
        start = torch.cat([batch.clean_sample] * 2, 1)[:, :n].reshape(batch.clean.shape)
        end = torch.cat([batch.noisy_sample.flip(1)] * 2, 1)[:, :n].reshape(batch.clean.shape)
        return torch.lerp(start, end, along(weight, batch.clean)).detach()


def _between(batch: NoisedBatch, position: Float[Tensor, " B"]) -> Float[Tensor, "B *event"]:
    """Return x_0 + s (x_t - x_0), s the position of each event."""
    return torch.lerp(batch.clean, batch.noisy, along(position, batch.clean)).detach()


def _uniform(batch: NoisedBatch, generator: torch.Generator | None) -> Float[Tensor, " B"]:
    """Draw a number in [0, 1) for every event."""
    clean = batch.clean
    device = device_of(generator, clean.device)
    return torch.rand(len(clean), generator=generator, device=device, dtype=clean.dtype).to(clean.device)
