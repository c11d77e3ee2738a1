"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError


def frechet_distance(features_a: Float[Tensor, "n K"], features_b: Float[Tensor, "m K"]) -> float:
    r"""Return |mu_a - mu_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in float64, covariances with n - 1.

    The trace of the square root is taken from the eigenvalues of the symmetric C_a^(1/2) C_b C_a^(1/2), so that singular
    covariances (fewer samples than features) are no problem. With Inception features this is FID; with others it is not.

    Raises:
        InputError: for features that are not finite, of different width, or fewer than 2 samples.

    Example:
        >>> import torch
        >>> a = torch.tensor([[-1.0], [1.0]])
        >>> round(frechet_distance(a, a + 3), 6)
        9.0
    """
    for field, value in (("features_a", features_a), ("features_b", features_b)):
        _checks.points(field, value)
        if value.ndim != 2 or len(value) < 2:
            raise InputError(f"{field} has shape {list(value.shape)}: must be [n, K] with n >= 2")
    if features_a.shape[1] != features_b.shape[1]:
        raise InputError(
            f"features_b has {features_b.shape[1]} columns: must have {features_a.shape[1]}, as features_a"
        )
    (mean_a, cov_a), (mean_b, cov_b) = _moments(features_a), _moments(features_b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1])
