"""Statistics of a target that lies in parts on the ranks."""

from __future__ import annotations

from torch import Tensor

from mmdflow._tensors import flat
from mmdflow.distributed.ranks import Ranks
from mmdflow.errors import InputError


def check_uniform(weights: Tensor) -> None:
    """Raise InputError where a target's samples have weights: each rank has scaled its own to the sum 1."""
    if not bool((weights == weights[0]).all()):
        raise InputError("target_weights with sharded = True: must be left out")


def common_mean(points: Tensor, ranks: Ranks) -> Tensor:
    """Return the mean of the points of all ranks, in float64, [d]."""
    return ranks.total(flat(points).double().sum(0)) / sum(ranks.counts(len(points)))


def common_spread(points: Tensor, ranks: Ranks) -> float:
    """Return the root mean square of the entries of all ranks' points about their means; 1 where all points are equal."""
    squares = ranks.total((flat(points).double() - common_mean(points, ranks)).square().sum())
    return float((squares / (sum(ranks.counts(len(points))) * flat(points).shape[1])).sqrt()) or 1.0
