"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.metrics.moments import Moments
from mmdflow.types import ArrayLike

log = logging.getLogger(__name__)

#: Share of the traces below which their difference is lost to rounding, the root of an eigenvalue's error being large.
_CANCELS = 1e-3


def frechet_distance(
    features_a: Float[Tensor, "n K"] | Moments | ArrayLike, features_b: Float[Tensor, "m K"] | Moments | ArrayLike
) -> float:
    r"""Return |mu_a - mu_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in float64, covariances with n - 1.

    The trace of the square root is taken from the eigenvalues of the symmetric C_a^(1/2) C_b C_a^(1/2), so that singular
    covariances (fewer samples than features) are no problem. Where the traces nearly cancel, what is left of them is computed as
    |C_a^(1/2) - U C_b^(1/2)|^2 with the best orthogonal U, so that the distance is never negative. With Inception features this
    is FID; with others it is not.

    Args:
        features_a: features, or their moments.
        features_b: the others.

    Raises:
        InputError: for features that are not finite, of different width, or fewer than 2 samples.

    Example:
        >>> import torch
        >>> a = torch.tensor([[-1.0], [1.0]])
        >>> round(frechet_distance(a, a + 3), 6)
        9.0
    """
    a, b = _moments("features_a", features_a), _moments("features_b", features_b)
    if len(a.mean) != len(b.mean):
        raise InputError(f"features_b has {len(b.mean)} columns: must have {len(a.mean)}, as features_a")
    root = _root(a.covariance)
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    if traces - 2 * cross > _CANCELS * traces:
        return float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross)
    other = _root(b.covariance)
    left, _, right = torch.linalg.svd(root @ other)
    return float((a.mean - b.mean).square().sum() + (root - left @ right @ other).square().sum())


def _root(covariance: Float[Tensor, "K K"]) -> Float[Tensor, "K K"]:
    """Return the symmetric square root."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def warn_if_deficient(name: str, count: int, size: int) -> None:
    """Warn, once for each pair of numbers, that a covariance has not full rank, which shifts Frechet distances."""
    if count <= size:
        log.warning(
            "%s: %d samples for %d features: the covariance has not full rank, and the distance is biased",
            name,
            count,
            size,
        )


def _moments(field: str, value: ArrayLike | Moments) -> Moments:
    if not isinstance(value, Moments):
        value = _checks.points(field, value)
        if value.ndim != 2 or len(value) < 2:
            raise InputError(f"{field} has shape {list(value.shape)}: must be [n, K] with n >= 2")
        return Moments.of(value)
    if value.count < 2:
        raise InputError(f"{field} has the moments of {value.count} sample: must be of at least 2")
    return value
