"""Batches and random numbers that are functions of (seed, step) alone, which is what makes a resume exact."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from mmdflow import _checks
from mmdflow.errors import InputError


def step_generator(seed: int, step: int, device: torch.device | str = "cpu", stream: int = 0) -> torch.Generator:
    """Return the generator of a training step: the same for the same seed, step and stream, always."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB) % 2**63
    return torch.Generator(device).manual_seed(mixed)


@runtime_checkable
class ImageEvents(Protocol):
    """Images in [-1, 1] that are decoded when a tensor of indices takes them."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of an image."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """Return the images of an index, [k]."""
        ...


class StepBatches(IterableDataset[Any]):
    """An endless stream of batches from epochs of seeded permutations, starting at any step.

    The events of a step are a function of (seed, step), whatever the number of ranks: each rank has every world_size-th of
    them, so a resume on another number of ranks goes on where it was. The workers of a `DataLoader` (with batch_size None)
    take turns at the steps, and it gives the batches in the same order as without workers.

    Args:
        data: [n, *event], in memory, or images that are decoded, and checked, by the batch.
        batch_size: events a step, over all ranks; may exceed n.
        seed: of the permutations.
        start: the first step, for a resume.
        rank: of this process.
        world_size: number of ranks; divides batch_size.
        labels: classes of the events, [n]; a batch is then a pair of events and labels.
        same_class: with labels, on one rank: events in a row that are of one class; divides batch_size. An epoch leaves out of
            every class, by chance, what does not fill a row.
        label_dropout: share of the rows whose events are of all classes, mixed anew in every epoch, with labels -1; of at least
            two rows, if any. With same_class.

    Raises:
        InputError: for numbers that are out of range, a batch that the ranks or the rows cannot share evenly, or a class of fewer
            events than a row.
    """

    def __init__(
        self,
        data: Tensor | ImageEvents,
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        labels: Int[Tensor, " n"] | None = None,
        same_class: int = 1,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.data = _checks.points("data", data) if isinstance(data, Tensor) else data
        if labels is not None and len(labels) != len(data):
            raise InputError(f"labels have {len(labels)} entries: must have {len(data)}, one an event")
        self.labels = labels
        self.batch_size = _checks.count("batch_size", batch_size)
        self.seed, self.start = seed, _checks.count("start", start, 0)
        self.world_size, self.rank = _checks.count("world_size", world_size), _checks.count("rank", rank, 0)
        if rank >= world_size:
            raise InputError(f"rank = {rank}: must be < world_size = {world_size}")
        if batch_size % world_size:
            raise InputError(f"batch_size = {batch_size}: must be a multiple of world_size = {world_size}")
        self.same_class = _checks.count("same_class", same_class)
        if same_class > 1 and (labels is None or world_size > 1):
            raise InputError(f"same_class = {same_class} with {'no labels' if labels is None else 'ranks'}: must be 1")
        if batch_size % same_class:
            raise InputError(f"batch_size = {batch_size}: must be a multiple of same_class = {same_class}")
        self.label_dropout = _checks.interval("label_dropout", label_dropout, 0.0, 1.0, "[)")
        if label_dropout and same_class == 1:
            raise InputError(
                f"label_dropout = {label_dropout:g} with same_class = 1: must be 0; mixes rows of one class"
            )
        self._size, self._members = self._classes()
        self._orders: dict[int, Tensor] = {}  # of the epochs that the last batch came from

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        """Yield the batches of steps start, start + 1, ...; in a worker, those of its turns."""
        worker = get_worker_info()
        first, every = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for step in itertools.count(self.start + first, every):
            yield self._batch(step)

    def rows(self, step: int) -> Int[Tensor, " k"]:
        """Return the indices of this rank's events of a step."""
        return _unmarked(self._marked(step))

    def _marked(self, step: int) -> Int[Tensor, " k"]:
        """Return the rows of a step, those whose class is left out as ~row, which is negative."""
        n, begin, end = self._size, step * self.batch_size, (step + 1) * self.batch_size
        epochs = range(begin // n, (end - 1) // n + 1)
        self._orders = {epoch: self._orders[epoch] if epoch in self._orders else self._order(epoch) for epoch in epochs}
        pieces = [order[max(begin - epoch * n, 0) : end - epoch * n] for epoch, order in self._orders.items()]
        return torch.cat(pieces)[self.rank :: self.world_size]

    def _batch(self, step: int) -> Tensor | tuple[Tensor, Tensor]:
        marked = self._marked(step)
        rows = _unmarked(marked)
        batch = self.data[rows]
        if not isinstance(self.data, Tensor):
            batch = _checks.images("data", batch, self.data.event_shape)
        return batch if self.labels is None else (batch, torch.where(marked < 0, -1, self.labels[rows]))

    def _classes(self) -> tuple[int, list[Tensor]]:
        """Return the events of an epoch, and the indices of every class where classes stay together."""
        if self.labels is None or self.same_class == 1:
            return len(self.data), []
        members = [torch.nonzero(self.labels == label)[:, 0] for label in self.labels.unique()]
        for rows in members:
            if len(rows) < self.same_class:
                label = int(self.labels[rows[0]])
                raise InputError(
                    f"same_class = {self.same_class}: class {label} has {len(rows)} events; must not be more than a class has"
                )
        return sum(len(rows) // self.same_class * self.same_class for rows in members), members

    def _order(self, epoch: int) -> Tensor:
        generator = step_generator(self.seed, epoch, stream=1 << 20)
        if not self._members:
            return torch.randperm(len(self.data), generator=generator)
        mixed = (rows[torch.randperm(len(rows), generator=generator)] for rows in self._members)
        together = torch.cat([rows[: len(rows) // self.same_class * self.same_class] for rows in mixed])
        groups = together.view(-1, self.same_class)
        groups = groups[torch.randperm(len(groups), generator=generator)]
        if self.label_dropout:
            count = max(2, round(self.label_dropout * len(groups)))
            events = groups[:count].flatten()
            groups[:count] = ~events[torch.randperm(len(events), generator=generator)].view(-1, self.same_class)
            groups = groups[torch.randperm(len(groups), generator=generator)]
        return groups.flatten()


def _unmarked(marked: Tensor) -> Tensor:
    """Return rows, of which those whose class is left out are given as ~row."""
    return torch.where(marked < 0, ~marked, marked)
