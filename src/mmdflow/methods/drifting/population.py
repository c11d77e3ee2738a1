"""Who meets whom in a step: generated events of a class, data of that class, data of all classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from mmdflow._tensors import device_of
from mmdflow.errors import InputError
from mmdflow.methods._shared.classes import class_shares
from mmdflow.training.batches import ImageEvents


class Group(NamedTuple):
    """Generated events that meet the same data.

    Attributes:
        size: how many there are.
        data: what they are compared with, [m, *event].
        label: their class, or None.
        guidance: alpha.
        negatives: data of all classes, which push them with weights of sum alpha - 1; None for alpha = 1.
    """

    size: int
    data: Tensor
    label: int | None = None
    guidance: float = 1.0
    negatives: Tensor | None = None


class Classes:
    """The training events by class.

    Args:
        events: of the data, [N, *event], or images that an index decodes.
        labels: their classes, whole numbers from 0, [N].
        per_step: classes of a step.
        max_guidance: alpha is uniform from 1 to it.

    Attributes:
        shares: the share of every class in the data, [C].

    Raises:
        InputError: for data without labels, with a class without events, or with fewer classes than a step draws.

    Example:
        >>> classes = Classes(torch.arange(6.0)[:, None], torch.tensor([0, 1, 0, 1, 1, 0]), per_step=1)
        >>> group = classes.groups(torch.zeros(4, 1), 3, torch.Generator().manual_seed(0))[0]
        >>> group.size, len(group.data), group.guidance
        (3, 4, 1.0)
    """

    def __init__(
        self, events: Tensor | ImageEvents, labels: Int[Tensor, " N"] | None, per_step: int, max_guidance: float = 1.0
    ) -> None:
        self.shares = class_shares(f"loss.classes = {per_step}", labels)
        if per_step > len(self.shares):
            raise InputError(f"loss.classes = {per_step}: must be at most {len(self.shares)}, the classes of the data")
        self.events, self.max_guidance, self.per_step = events, max_guidance, per_step
        assert labels is not None  # the shares were taken of them
        self.rows = [torch.eq(labels, label).nonzero()[:, 0].cpu() for label in range(len(self.shares))]

    def groups(self, batch: Tensor, population: int, generator: torch.Generator | None) -> Sequence[Group]:
        """Return a group for each class of a step; batch and population are shared out evenly."""
        where = device_of(generator)
        chosen = torch.randperm(len(self.rows), generator=generator, device=where)[: self.per_step].tolist()
        alphas = 1 + (self.max_guidance - 1) * torch.rand(len(chosen), generator=generator, device=where)
        groups = []
        for label, alpha in zip(chosen, alphas.tolist(), strict=True):
            rows, share = self.rows[label], len(batch) // len(chosen)
            drawn = rows[torch.randint(len(rows), (share,), generator=generator, device=where).cpu()]
            data = self.events[drawn].to(batch)
            negatives = batch if self.max_guidance > 1 and alpha > 1 else None
            groups.append(Group(population // len(chosen), data, label, alpha, negatives))
        return groups
