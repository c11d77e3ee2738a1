"""Batches and random numbers that are functions of (seed, step) alone, which is what makes a resume exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from mmdflow import _checks


def step_generator(seed: int, step: int, device: torch.device | str = "cpu", stream: int = 0) -> torch.Generator:
    """Return the generator of a training step: the same for the same seed, step and stream (rank), always."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB) % 2**63
    return torch.Generator(device).manual_seed(mixed)


@runtime_checkable
class ImageEvents(Protocol):
    """Images in [-1, 1] that are decoded when they are asked for, by a tensor of indices."""

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


class StepBatches(IterableDataset[Tensor]):
    """An endless stream of batches from epochs of seeded permutations, starting at any step.

    Args:
        data: [n, *event], in memory, or images that are decoded, and checked, by the batch.
        batch_size: events a batch; may exceed n.
        seed: of the permutations.
        start: the first step, for a resume.
    """

    def __init__(self, data: Tensor | ImageEvents, batch_size: int, seed: int = 0, start: int = 0) -> None:
        super().__init__()
        self.data = _checks.points("data", data) if isinstance(data, Tensor) else data
        self.batch_size = _checks.count("batch_size", batch_size)
        self.seed, self.start = seed, _checks.count("start", start, 0)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of steps start, start + 1, ..."""
        n = len(self.data)
        epoch, offset = divmod(self.start * self.batch_size, n)
        order = self._order(epoch)[offset:]
        while True:
            while len(order) < self.batch_size:
                epoch += 1
                order = torch.cat([order, self._order(epoch)])
            yield self._batch(order[: self.batch_size])
            order = order[self.batch_size :]

    def _batch(self, rows: Tensor) -> Tensor:
        batch = self.data[rows]
        return batch if isinstance(self.data, Tensor) else _checks.images("data", batch, self.data.event_shape)

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.data), generator=step_generator(self.seed, epoch, stream=1 << 20))
