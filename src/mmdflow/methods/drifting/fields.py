"""The velocity fields of a step, in a map of a space: from a batch, or from landmarks that stand for all data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks, ops
from mmdflow.divergences import MMD, VelocityField
from mmdflow.divergences.base import uniform
from mmdflow.divergences.batch_form import can_share, grouped
from mmdflow.divergences.drifts import BATCH, Drift
from mmdflow.kernels import Gaussian, Kernel, Laplace, Linear, Matern, Riesz, squared_distances
from mmdflow.methods.drifting.settings import DriftingLossSettings
from mmdflow.types import Particles, Points, Weights

_KERNELS: Mapping[str, Callable[[float], Kernel]] = {
    "laplace": Laplace,
    "gaussian": Gaussian,
    "matern-3/2": lambda width: Matern(1.5, width),
}


class Meeting(NamedTuple):
    """What generated events meet in a map of a space, [k, C] each.

    Attributes:
        size: how many generated events there are.
        data: of the data.
        negatives: of data of all classes, or None.
        negative_weight: the sum of their weights, where generated events have 1.
        second: of other generated events, or None.
    """

    size: int
    data: Tensor
    negatives: Tensor | None = None
    negative_weight: float = 0.0
    second: Tensor | None = None


def kernels_of(settings: DriftingLossSettings, dim: int) -> list[Kernel]:
    """Return a kernel for every bandwidth, in a map of `dim` entries whose median distance is sqrt dim."""
    if settings.kernel == "riesz":
        return [Riesz()]
    if settings.kernel == "linear":
        return [Linear()]
    return [_KERNELS[settings.kernel](width * math.sqrt(dim)) for width in settings.widths]


class BatchFields(nn.Module):
    """Fields towards the data of a batch."""

    def __init__(self, settings: DriftingLossSettings) -> None:
        super().__init__()
        self.settings = settings

    def of_map(self, space: int, index: int, meeting: Meeting) -> list[VelocityField]:
        """Return the field of every bandwidth in a map (`index`) of a space."""
        return [self._field(kernel, meeting) for kernel in kernels_of(self.settings, meeting.data.shape[1])]

    def velocities(
        self, space: int, index: int, phi: Float[Tensor, "n C"], meetings: Sequence[Meeting]
    ) -> list[Float[Tensor, "n C"]]:
        """Return the velocities in a map along the field of every bandwidth, each group's towards its data."""
        kernels, data = kernels_of(self.settings, phi.shape[1]), [meeting.data for meeting in meetings]
        alike = len({meeting.size for meeting in meetings}) == len({len(part) for part in data}) == 1
        own = all(meeting.negatives is meeting.second is None for meeting in meetings)
        if self.settings.field in BATCH and alike and own and can_share(kernels, phi, *data):
            groups = phi.unflatten(0, (len(meetings), meetings[0].size))
            balanced = self.settings.field == "balanced-batch"
            return [v.flatten(0, 1) for v in grouped(groups, torch.stack(data), kernels, balanced=balanced)]
        return one_by_one(self, space, index, phi, meetings)

    def _field(self, kernel: Kernel, meeting: Meeting) -> VelocityField:
        weights = None
        if meeting.negatives is not None:
            weights = meeting.data.new_full((len(meeting.negatives),), meeting.negative_weight / len(meeting.negatives))
        if self.settings.field == "mmd":
            return _BatchMMD(kernel, meeting, weights)
        return Drift(
            meeting.data,
            kernel,
            normalization=self.settings.field,
            negatives=meeting.negatives,
            negative_weights=weights,
            second=meeting.second,
            num_iterations=10,
        )


def one_by_one(
    fields: BatchFields | LandmarkFields,
    space: int,
    index: int,
    phi: Float[Tensor, "n C"],
    meetings: Sequence[Meeting],
) -> list[Float[Tensor, "n C"]]:
    """Return the velocities of every bandwidth, one field and one group after the other."""
    of_groups = []
    for part, meeting in zip(phi.split([meeting.size for meeting in meetings]), meetings, strict=True):
        of_groups.append([field.velocity(part) for field in fields.of_map(space, index, meeting)])
    return [torch.cat(parts) for parts in zip(*of_groups, strict=True)]


def means_fields(settings: DriftingLossSettings) -> BatchFields:
    """Return the fields of the MMD of a linear kernel: mean of the data less mean of the generated events, for every event."""
    return BatchFields(replace(settings, field="mmd", kernel="linear", bandwidths=None, landmarks=None))


class _BatchMMD:
    """-grad of the MMD's witness, as `MMD` has it, without the target's self term, which costs as much and moves nothing."""

    def __init__(self, kernel: Kernel, meeting: Meeting, negative_weights: Tensor | None) -> None:
        self.kernel, self.meeting, self.negative_weights = kernel, meeting, negative_weights

    @torch.no_grad()
    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return -grad f, with f = E_q k - E_p k, and q the particles with the negatives."""
        z, data = x if at is None else at, self.meeting.data
        points = x if self.meeting.second is None else self.meeting.second
        pushing = uniform(x, weights) if self.meeting.second is None else uniform(points)
        if self.meeting.negatives is not None and self.negative_weights is not None:
            points = torch.cat([points, self.meeting.negatives])
            pushing = torch.cat([pushing, self.negative_weights])
            pushing = pushing / pushing.sum()
        push = ops.kernel_sum_grad(self.kernel, z, points, pushing)
        return ops.kernel_sum_grad(self.kernel, z, data, uniform(data)) - push


class LandmarkFields(nn.Module):
    """MMD fields whose attraction is that of all data, by landmarks, frozen; the repulsion is exact.

    Args:
        settings: kernel, bandwidths and the number of landmarks.
        batches: one call returns the maps of all data, batch by batch: of every space a list of [b, C].
        generator: of the clusters.
    """

    def __init__(
        self,
        settings: DriftingLossSettings,
        batches: Callable[[], Iterable[Sequence[Sequence[Tensor]]]],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        assert settings.landmarks is not None
        self.divergences = nn.ModuleList()  # of spaces, of maps, of kernels
        centres = [
            [cluster_centres(phi, settings.landmarks, generator) for phi in maps] for maps in _first(batches(), 10_000)
        ]
        for space, of_space in enumerate(centres):
            of_maps = nn.ModuleList()
            for index, landmarks in enumerate(of_space):
                of_maps.append(
                    nn.ModuleList(
                        MMD.from_landmarks(landmarks, (batch[space][index] for batch in batches()), kernel)
                        for kernel in kernels_of(settings, landmarks.shape[1])
                    )
                )
            self.divergences.append(of_maps)

    def of_map(self, space: int, index: int, meeting: Meeting) -> list[VelocityField]:
        """Return the field of every bandwidth in a map (`index`) of a space; only a second batch of the meeting is used."""
        divergences: list[MMD] = list(self.divergences[space][index])  # type: ignore[index]
        if meeting.second is None:
            return [*divergences]
        return [_Second(divergence, meeting.second) for divergence in divergences]

    def velocities(
        self, space: int, index: int, phi: Float[Tensor, "n C"], meetings: Sequence[Meeting]
    ) -> list[Float[Tensor, "n C"]]:
        """Return the velocities in a map along the field of every bandwidth."""
        return one_by_one(self, space, index, phi, meetings)


class _Second:
    """A divergence's velocity for other particles than those that it moves."""

    def __init__(self, divergence: MMD, second: Tensor) -> None:
        self.divergence, self.second = divergence, second

    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return -grad f, with f frozen at the second batch."""
        return self.divergence.velocity(self.second, x if at is None else at)


def _first(batches: Iterable[Sequence[Sequence[Tensor]]], most: int) -> list[list[Tensor]]:
    """Return the maps of the first events, at most so many, joined."""
    kept: list[Sequence[Sequence[Tensor]]] = []
    for batch in batches:
        kept.append(batch)
        if sum(len(part[0][0]) for part in kept) >= most:
            break
    return [[torch.cat(parts)[:most] for parts in zip(*spaces, strict=True)] for spaces in zip(*kept, strict=True)]


def cluster_centres(
    x: Float[Tensor, "n C"], count: int, generator: torch.Generator | None = None, *, num_iterations: int = 10
) -> Float[Tensor, "k C"]:
    """Return the centres of clusters by Lloyd's algorithm from random events; all events where there are no more than `count`.

    Example:
        >>> x = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
        >>> cluster_centres(x, 2, torch.Generator().manual_seed(0)).sort(0).values
        tensor([[0.1000],
                [5.1000]])
    """
    if len(x) <= _checks.count("count", count):
        return x
    order = torch.randperm(len(x), generator=generator, device=None if generator is None else generator.device)
    centres = x[order[:count].to(x.device)]
    for _ in range(num_iterations):
        nearest = torch.cat([squared_distances(part, centres).argmin(1) for part in x.split(1024)])
        sizes = torch.bincount(nearest, minlength=count).to(x)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], centres)  # an empty one stays
    return centres
