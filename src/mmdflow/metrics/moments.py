"""Mean and covariance of features in one pass, in float64, however they come in batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError


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
    def of(cls, features: Float[Tensor, "n K"]) -> Moments:
        """Return the moments of features.

        Raises:
            InputError: for features that are not a matrix, or not finite.
        """
        _checks.points("features", features)
        if features.ndim != 2:
            raise InputError(f"features has shape {list(features.shape)}: must be [n, K]")
        x = features.double()
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    @classmethod
    def of_batches(cls, batches: Iterable[Float[Tensor, "n K"]]) -> Moments:
        """Return the moments of all batches together, none of which is kept.

        Raises:
            InputError: if there is none.
        """
        found: Moments | None = None
        for batch in batches:
            found = cls.of(batch) if found is None else found.merged(cls.of(batch))
        if found is None:
            raise InputError("batches is empty: must hold at least one")
        return found

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
