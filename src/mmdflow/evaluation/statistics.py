"""Figures of features under the keys of reports, as several selections of the judge have them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import metrics
from mmdflow.divergences.functional import mmd2
from mmdflow.evaluation.reference import ReferenceStatistics
from mmdflow.kernels import Riesz
from mmdflow.metrics.manifold import NEIGHBOURS

#: Samples and images of the reference in the two-sample test, whose Gram matrix holds (2 x 2000)^2 entries.
_TESTED = 2000
#: Features above which fewer sets are resampled.
_WIDE = 256


def frechet_figures(
    features: Float[Tensor, "n K"],
    reference: ReferenceStatistics,
    generator: torch.Generator,
    repeats: int | None = None,
) -> dict[str, Any]:
    """Return the Frechet distance with its interval and, of enough samples, its limit; and the kernel distance."""
    moments, size = reference.moments, min(1000, len(features), len(reference.features))
    kernel = metrics.kernel_distance(features, reference.features, subset_size=size, generator=generator)
    if repeats is None:
        repeats = 100 if features.shape[1] <= _WIDE else 20
    interval = metrics.frechet_interval(features, moments, repeats=repeats, generator=generator)
    figures: dict[str, Any] = {
        "frechet_distance": metrics.frechet_distance(features, moments),
        "kernel_distance": kernel.plain,
        "frechet_interval": list(interval),
    }
    if len(features) >= 4 * features.shape[1]:
        figures["frechet_at_infinity"] = metrics.frechet_at_infinity(features, moments, generator=generator)
    return figures


def score_figures(probabilities: Float[Tensor, "n C"] | None, generator: torch.Generator) -> dict[str, Any]:
    """Return the inception score of shuffled rows; nothing where there are no classes."""
    if probabilities is None:
        return {}
    shuffled = probabilities[torch.randperm(len(probabilities), generator=generator)]
    return {"inception_score": metrics.inception_score(shuffled, splits=min(10, len(shuffled))).plain}


def manifold_figures(
    features: Float[Tensor, "n *K"], reference: Float[Tensor, "m *K"], ending: str = ""
) -> dict[str, float]:
    """Return precision, recall, density and coverage, their keys with an ending; nothing of a handful of samples."""
    if min(len(features), len(reference)) <= NEIGHBOURS:
        return {}
    scores = metrics.manifold_scores(features.flatten(1), reference.flatten(1))
    return {f"{name}{ending}": value for name, value in asdict(scores).items()}


def energy_figures(
    features: Float[Tensor, "n K"], reference: Float[Tensor, "m K"], generator: torch.Generator
) -> dict[str, float]:
    """Return the energy distance, and the p-value of its permutation test on the first rows."""
    distance = float(mmd2(features, reference, Riesz()))
    first, second = (x[:_TESTED].float() for x in (features, reference))
    _, p_value = metrics.mmd_test(first, second, Riesz(), generator=generator)
    return {"energy_distance": distance, "energy_p_value": p_value}


def class_figures(probabilities: Float[Tensor, "n C"] | None, ending: str = "") -> dict[str, Any]:
    """Return confidence and histogram of classes, their keys with an ending; nothing where there are no classes."""
    if probabilities is None:
        return {}
    counts = probabilities.argmax(1).bincount(minlength=probabilities.shape[1])
    return {
        f"class_confidence{ending}": float(probabilities.max(1).values.mean()),
        f"class_histogram{ending}": [round(share, 6) for share in (counts / counts.sum()).tolist()],
    }
