"""Samples and the images of a set that they are nearest to, by the Euclidean distance of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow.data import ImageSet
from mmdflow.kernels import squared_distances


@dataclass(frozen=True)
class Neighbours:
    """The nearest training images of some samples.

    Attributes:
        rows: which samples, in the order that they were drawn in, [k].
        nearest: rows of the training images, [k].
        distances: between the two, [k].
    """

    rows: Int[Tensor, " k"]
    nearest: Int[Tensor, " k"]
    distances: Float[Tensor, " k"]

    def first(self, count: int) -> Neighbours:
        """Return the first `count`: a draw at random."""
        return Neighbours(self.rows[:count], self.nearest[:count], self.distances[:count])

    def closest(self, count: int) -> Neighbours:
        """Return the `count` at the smallest distances, the closest first: suspected copies."""
        order = self.distances.argsort(stable=True)[:count]
        return Neighbours(self.rows[order], self.nearest[order], self.distances[order])


def nearest(samples: Float[Tensor, "n c h w"], images: ImageSet) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the distance of each sample to the nearest image of a set, and which one that is; a batch at a time."""
    best = samples.new_full((len(samples),), float("inf"))
    indices, start = torch.zeros(len(samples), dtype=torch.long), 0
    flat = samples.flatten(1)
    for batch in images.batches(4096):
        closest = squared_distances(flat, batch.flatten(1)).min(1)
        better = closest.values < best
        best = torch.where(better, closest.values, best)
        indices = torch.where(better, closest.indices + start, indices)
        start += len(batch)
    return best.sqrt(), indices
