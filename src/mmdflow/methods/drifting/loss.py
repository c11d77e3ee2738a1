"""The loss of a one-step generator: its events follow a velocity field, in one or several spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdflow import _checks
from mmdflow._tensors import device_of, normal_like
from mmdflow.divergences.drifts import to_unit_rms
from mmdflow.errors import DivergedError, InputError
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.drifting.fields import BatchFields, LandmarkFields, Meeting
from mmdflow.methods.drifting.generator import Generator
from mmdflow.methods.drifting.population import Classes, Group
from mmdflow.methods.drifting.settings import DriftingLossSettings
from mmdflow.methods.drifting.spaces import Pixels, Space

#: Events of a batch by which distances are measured, in spaces that are measured by the batch.
_MEASURED = 64


@dataclass(frozen=True)
class DriftingTerms(StepTerms):
    """The loss of a step: the mean square of the velocities' entries, over all maps of all spaces.

    Attributes:
        drift: root mean square of the velocities' entries before unit_rms makes them alike, mean over bandwidths and maps.
        samples: the generated events, [n, *event].
        batch: the events of the data, [B, *event].
    """

    parts = ("total",)
    drift: float
    samples: Float[Tensor, "n *event"] = field(repr=False)
    batch: Float[Tensor, "B *event"] = field(repr=False)

    @property
    def spread(self) -> float:
        """Standard deviation of the generated events, mean over entries, over that of the batch: 0 after a collapse."""
        return float(self.samples.std(0).mean() / self.batch.std(0).mean().clamp_min(1e-12))

    def scalars(self) -> dict[str, float]:
        """Return loss, drift and spread."""
        return super().scalars() | {"drift": self.drift, "spread": self.spread}

    def message(self, part: str) -> str:
        """Return the line for velocities that are not finite."""
        return "the velocities of generated events became non-finite"


class DriftingLoss(nn.Module):
    r"""sum over maps phi of mean |phi(x) - sg(phi(x) + V(phi(x)))|^2, x = G(e): one step of the flow and one of the optimiser.

    V is the velocity field between the generated events and the data in the map, sg stops gradients (Deng et al. 2026, arXiv
    2602.04770). The gradient that reaches an event is exact whatever `chunk_size`, which bounds memory: chunks are made without
    a graph, and once more in the backward pass (gradient caching).

    Args:
        generator: G.
        spaces: where events are compared, one or more, measured.
        settings: the field.
        fields: of the maps; towards the batch by default.
        classes: the data by class, for a generator that knows classes.
        levels_per_step: how many of the spaces other than pixels a step uses, drawn at random; all by default.
        feature_fields: of the maps of spaces other than pixels; those of pixels by default.
        feature_weight: root mean square of the gradient in the events of every map of those spaces, over that of pixels; by
            default gradients stay as the velocities make them.

    Raises:
        InputError: for a space that is not measured.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> space = Pixels()
        >>> space.measure(torch.randn(100, 2))
        >>> loss = DriftingLoss(Generator(MLPFeatures((2,), num_features=1)), [space])
        >>> float(loss(torch.randn(16, 2), torch.Generator().manual_seed(0)).total.detach().round(decimals=4))
        1.0
    """

    def __init__(
        self,
        generator: Generator,
        spaces: Sequence[Space],
        settings: DriftingLossSettings | None = None,
        *,
        fields: BatchFields | LandmarkFields | None = None,
        classes: Classes | None = None,
        levels_per_step: int | None = None,
        feature_fields: BatchFields | None = None,
        feature_weight: float | None = None,
    ) -> None:
        super().__init__()
        if not spaces or not all(space.scales or space.by_batch for space in spaces):
            raise InputError("spaces: must hold at least one space, and each must be measured: space.measure(events)")
        self.settings = settings or DriftingLossSettings()
        self.generator, self.spaces, self.classes = generator, nn.ModuleList(spaces), classes
        self.fields = fields or BatchFields(self.settings)
        self.feature_fields = feature_fields or self.fields
        self.levels_per_step, self.feature_weight = levels_per_step, feature_weight
        self._alone = all(space.length is None for space in spaces)

    def forward(self, batch: Float[Tensor, "B *event"], generator: torch.Generator | None = None) -> DriftingTerms:
        """Return the loss of a batch of the data; `generator` draws noise, classes and levels."""
        groups = self._groups(batch, generator)
        samples = self._generate(groups, batch, generator)
        if not _checks.all_finite(samples):
            raise DivergedError("generated events became non-finite")
        second = None
        if self.settings.second:
            with torch.no_grad():
                second = self._generate(groups, batch, generator)
        with torch.autocast(batch.device.type, enabled=False), self._explain_overlap():
            pull, value, drift = self._pull(samples.detach(), second, groups, generator)
        linear = (samples * pull).sum()  # its gradient in the network is that of the loss
        return DriftingTerms(linear - linear.detach() + value, drift, samples.detach(), batch)

    def _groups(self, batch: Tensor, generator: torch.Generator | None) -> Sequence[Group]:
        population = self.settings.population or len(batch)
        if self.classes is None:
            return [Group(population, batch)]
        return self.classes.groups(batch, population, generator)

    def _generate(self, groups: Sequence[Group], like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the events of all groups, in their order."""
        count = sum(group.size for group in groups)
        inputs = [normal_like(like.new_empty(count, *like.shape[1:]), generator)]
        if self.classes is not None:
            sizes = torch.tensor([group.size for group in groups])
            labels = torch.tensor([group.label for group in groups]).repeat_interleave(sizes)
            guidance = torch.tensor([group.guidance for group in groups]).repeat_interleave(sizes)
            inputs += [labels.to(like.device), guidance.to(like)]
        (samples,) = in_chunks(lambda *parts: [self.generator(*parts)], self.settings.chunk_size, *inputs)
        return samples

    def _pull(
        self, samples: Tensor, second: Tensor | None, groups: Sequence[Group], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, float]:
        """Return the loss's gradient in the samples, its value, and how long velocities are."""
        pull, value, drifts = torch.zeros_like(samples), samples.new_zeros(()), []
        for at, space in self._chosen(generator):
            if space.by_batch:
                space.measure(some_of(groups), generator)
            with torch.enable_grad():
                x = samples.clone().requires_grad_()
                maps = in_chunks(space, self.settings.chunk_size, x, space.draw(x, generator))
            with torch.no_grad():
                meetings = self._meetings(space, second, groups, generator)
                velocities = []
                for index, phi in enumerate(maps):
                    parts = self._velocities(at, index, phi.detach(), [of_group[index] for of_group in meetings])
                    drifts += [float(part.square().mean().sqrt()) for part in parts]
                    velocities.append(self._joined(parts))
                    value = value + velocities[-1].square().mean()
            cotangents = [-2 / velocity.numel() * velocity for velocity in velocities]
            pull = pull + self._in_events(space, maps, x, cotangents)
        return pull, value, sum(drifts) / len(drifts)

    def _in_events(self, space: Space, maps: Sequence[Tensor], x: Tensor, cotangents: Sequence[Tensor]) -> Tensor:
        """Return the gradient in the events x of the maps of a space, each of its weight's length where there is one."""
        length = self._length(space)
        if length is None:
            return torch.autograd.grad(maps, x, cotangents)[0]
        gradients = [
            torch.autograd.grad(phi, x, cotangent, retain_graph=True)[0]
            for phi, cotangent in zip(maps, cotangents, strict=True)
        ]
        return length * 2 / x.numel() * torch.stack([to_unit_rms(gradient) for gradient in gradients]).sum(0)

    def _length(self, space: Space) -> float | None:
        """Return the root mean square of what a map of a space asks, where pixels ask 1; None: what its velocities make it."""
        if space.length is not None:
            return space.length
        if isinstance(space, Pixels):
            return None if self.feature_weight is None and self._alone else 1.0
        return self.feature_weight

    def _velocities(self, space: int, index: int, phi: Tensor, meetings: Sequence[Meeting]) -> list[Tensor]:
        """Return the velocities in a map along the field of every bandwidth, each group's towards its data."""
        fields = self.fields if isinstance(self.spaces[space], Pixels) else self.feature_fields
        return fields.velocities(space, index, phi, meetings)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the sum over bandwidths."""
        if not self.settings.unit_rms:
            return torch.stack(list(parts)).sum(0)
        return to_unit_rms(torch.stack([to_unit_rms(part) for part in parts]).sum(0))

    def _meetings(
        self, space: Space, second: Tensor | None, groups: Sequence[Group], generator: torch.Generator | None
    ) -> list[list[Meeting]]:
        """Return what each group meets, in every map of a space."""
        others = [None] * len(groups) if second is None else second.split([group.size for group in groups])
        meetings = []
        for group, other in zip(groups, others, strict=True):
            known = [] if group.label is not None else space.means  # which are of all classes
            data = [mean.to(group.data) for mean in known] or space(group.data, generator=generator)
            negatives, pushing = (
                [None] * len(space.scales) if events is None else space(events, generator=generator)
                for events in (group.negatives, other)
            )
            rows = zip(data, negatives, pushing, strict=True)
            meetings.append([Meeting(group.size, y, n, group.guidance - 1, s) for y, n, s in rows])
        return meetings

    def _chosen(self, generator: torch.Generator | None) -> list[tuple[int, Space]]:
        """Return the spaces of a step, with their numbers."""
        spaces = [(i, space) for i, space in enumerate(self.spaces) if isinstance(space, Space)]
        if self.levels_per_step is None:
            return spaces
        pixels = [(i, space) for i, space in spaces if isinstance(space, Pixels)]
        levels = [(i, space) for i, space in spaces if not isinstance(space, Pixels)]
        order = torch.randperm(len(levels), generator=generator, device=device_of(generator)).tolist()
        return [*pixels, *(levels[i] for i in order[: self.levels_per_step])]

    @contextmanager
    def _explain_overlap(self) -> Iterator[None]:
        """Name the setting where a kernel reaches no event of the data."""
        try:
            yield
        except InputError as error:
            raise InputError(
                f"loss.bandwidths = {self.settings.widths} with loss.field = {self.settings.field!r}: {error} "
                "(distances are in units of the median distance over the root of the map's entries)"
            ) from error


def some_of(groups: Sequence[Group]) -> Tensor:
    """Return some of the data by which a space is measured: as many events of every group, since the first ones are one class."""
    each = -(-_MEASURED // len(groups))
    return torch.cat([group.data[:each] for group in groups])[:_MEASURED]


def in_chunks(function: Callable[..., Sequence[Tensor]], size: int | None, *inputs: Tensor) -> list[Tensor]:
    """Return the tensors of function(*inputs), computed some rows at a time, and once more in a backward pass."""
    if size is None or size >= len(inputs[0]):
        return list(function(*inputs))
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    parts = zip(*(value.split(size) for value in inputs), strict=True)
    made = [checkpoint(function, *part, **settings) if torch.is_grad_enabled() else function(*part) for part in parts]
    return [torch.cat(column) for column in zip(*made, strict=True)]
