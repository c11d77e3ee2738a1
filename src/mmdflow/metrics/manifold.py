"""How much of the samples lies on the data's manifold, and how much of that they cover, by balls around nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.kernels import squared_distances
from mmdflow.types import ArrayLike

#: The default k, that of Naeem et al.
NEIGHBOURS = 5


@dataclass(frozen=True)
class ManifoldScores:
    """Fidelity and diversity of samples; see `manifold_scores`.

    Attributes:
        precision: share of the samples that lie in the ball of a reference point.
        recall: share of the reference points that lie in the ball of a sample.
        density: balls of reference points that a sample lies in, over k, in the mean; above 1 where samples crowd.
        coverage: share of the reference points whose ball holds a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(
    features: Float[Tensor, "n d"] | ArrayLike,
    reference: Float[Tensor, "m d"] | ArrayLike,
    *,
    neighbours: int = NEIGHBOURS,
    block: int = 512,
) -> ManifoldScores:
    """Return precision and recall (Kynkaanniemi et al. 2019, eq. 1-2), density and coverage (Naeem et al. 2020, eq. 4-5).

    The ball of a point reaches to its k-th nearest neighbour in its own set, its rim included. All four depend on the numbers of
    points: compare figures of equal n and m only. Independent draws of one distribution have an expected coverage of 1 - 2^-k
    where n = m is large.

    Args:
        features: of the samples.
        reference: features of data.
        neighbours: k; Kynkaanniemi et al. take 3, Naeem et al. 5.
        block: rows of distances held at once.

    Raises:
        InputError: for mismatched features, entries that are not finite, or a set of no more than k points.

    Example:
        >>> import torch
        >>> points = torch.arange(8.0)[:, None]
        >>> manifold_scores(points[:6], points, neighbours=1)
        ManifoldScores(precision=1.0, recall=0.875, density=2.8333333333333335, coverage=0.875)
    """
    features, reference = _checks.samples("features", features, "reference", reference)
    k = _checks.count("neighbours", neighbours)
    for name, points in (("features", features), ("reference", reference)):
        if len(points) <= k:
            raise InputError(f"{name} has {len(points)} points: needs more than neighbours = {k}")
    features, reference = features.double(), reference.double()
    radii, reference_radii = (_radii(x, k, block) for x in (features, reference))
    in_balls: list[Int[Tensor, " b"]] = []
    covered = torch.zeros(len(reference), dtype=torch.bool, device=reference.device)
    recalled: Bool[Tensor, " m"] = covered.clone()
    for rows, row_radii in zip(features.split(block), radii.split(block), strict=True):
        distances = squared_distances(rows, reference)
        inside = distances <= reference_radii
        in_balls.append(inside.sum(1))
        covered |= inside.any(0)
        recalled |= (distances <= row_radii[:, None]).any(0)
    balls = torch.cat(in_balls)
    return ManifoldScores(
        precision=float((balls > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(balls.double().mean() / k),
        coverage=float(covered.double().mean()),
    )


def _radii(x: Tensor, k: int, block: int) -> Float[Tensor, " n"]:
    """Return the squared distance of each point to its k-th nearest neighbour; the nearest of all is itself."""
    return torch.cat([squared_distances(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(block)])
