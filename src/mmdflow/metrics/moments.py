"""Mean and covariance of features in one pass, in float64, however they come in batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.types import ArrayLike

#: Rows that are held in float64 at once.
_BLOCK = 4096


@dataclass(frozen=True)
class Moments:
    """What the Frechet distance needs of a set of features, in float64.

    Attributes:
        count: how many, n.
        mean: their mean, [K].
        scatter: the sum of (x - mean)(x - mean)^T, [K, K].
    """

    count: int
    mean: Float[Tensor, " K"]
    scatter: Float[Tensor, "K K"]

    @classmethod
    def of(cls, features: Float[Tensor, "n K"] | ArrayLike, times: Int[Tensor, " n"] | None = None) -> Moments:
        """Return the moments of features.

        Args:
            features: the features.
            times: how often each is taken, 0 or more; once each by default. Nothing is copied, and each is worked on once.

        Raises:
            InputError: for features that are not a matrix, or not finite; times of another number, negative, or all 0.
        """
        features = _checks.points("features", features)
        if features.ndim != 2:
            raise InputError(f"features has shape {list(features.shape)}: must be [n, K]")
        if times is None:
            times = torch.ones(len(features), dtype=torch.long, device=features.device)
        elif tuple(times.shape) != (len(features),) or int(times.min()) < 0 or int(times.sum()) == 0:
            raise InputError(f"times has shape {list(times.shape)}: must be [{len(features)}], all >= 0, some > 0")
        count, blocks = int(times.sum()), times.nonzero()[:, 0].split(_BLOCK)
        mean = torch.stack([times[rows].double() @ features[rows].double() for rows in blocks]).sum(0) / count
        scatter = mean.new_zeros(len(mean), len(mean))
        for rows in blocks:  # no float64 copy of all
            centred = features[rows].double().sub_(mean).mul_(times[rows].double().sqrt()[:, None])
            scatter.addmm_(centred.T, centred)
        return cls(count, mean, scatter)

    @classmethod
    def of_batches(cls, batches: Iterable[Tensor]) -> Moments:
        """Return the moments of all batches [n_i, K] together, none of which is kept.

        Raises:
            InputError: if there is none.
        """
        total: Moments | None = None
        for batch in batches:
            total = cls.of(batch) if total is None else total.merged(cls.of(batch))
        if total is None:
            raise InputError("batches is empty: must hold at least one")
        return total

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets together (Chan, Golub, LeVeque 1983): of parts on several machines, for example."""
        if len(other.mean) != len(self.mean):
            raise InputError(f"moments of {len(other.mean)} features: must have {len(self.mean)}, as the others")
        count, shift = self.count + other.count, other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), scatter)

    @property
    def covariance(self) -> Float[Tensor, "K K"]:
        """The covariance, with n - 1."""
        return self.scatter / max(self.count - 1, 1)
