"""Samples against the data that their model was trained on: every figure beside the same figure of real held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import eight_bits
from mmdflow.divergences.functional import mmd2
from mmdflow.evaluation.figures import REFERENCE
from mmdflow.evaluation.protocols import as_images
from mmdflow.evaluation.reference import ReferenceStatistics
from mmdflow.evaluation.statistics import class_figures, manifold_figures
from mmdflow.kernels import Riesz
from mmdflow.metrics.extractors import FeatureExtractor
from mmdflow.metrics.frechet import frechet_distance, warn_if_deficient
from mmdflow.metrics.memorisation import memorisation
from mmdflow.metrics.neighbours import nearest_distances
from mmdflow.metrics.scores import kernel_distance
from mmdflow.metrics.sliced import sliced_w2
from mmdflow.metrics.two_sample import mmd_test

#: Samples at most in the permutation test, the nearest-neighbour search and the manifold scores.
_MOST = 2000
#: Pairs of subsets of the kernel distance.
_SUBSETS = 10


@dataclass(frozen=True)
class _Parts:
    """Subsets of the samples, as many held-out events, and the whole sets; or the features of all these."""

    subsets: Sequence[Tensor]
    reference: Tensor
    train: Tensor
    test: Tensor

    def features(self, extractor: FeatureExtractor) -> _Parts:
        train = extractor.features(self.train)
        subsets = [extractor.features(subset) for subset in self.subsets]
        return _Parts(subsets, extractor.features(self.reference), train, extractor.features(self.test))


def evaluate_samples(
    samples: Float[Tensor, "n *event"],
    train: Float[Tensor, "m *event"],
    test: Float[Tensor, "k *event"],
    *,
    extractor: FeatureExtractor | None = None,
    reports: Mapping[str, FeatureExtractor] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of a report, in plain types; their keys are those of `mmdflow.evaluation.figures`.

    Distances to the training set are averaged over disjoint subsets of the samples of the held-out set's size, because the
    Frechet distance depends on the number of samples; `..._reference` is the same figure of the held-out set itself. Where
    the held-out set is balanced over classes, as that of the digits is, no independent draw of real data reaches its
    Frechet distance; `frechet_distance_random_split` is the mean of ten random splits of all real data into as many and the rest.

    Of the entries there are sliced_w2, energy_distance, mmd2, mmd_p_value, nearest_distance, and those of memorisation,
    copying_z and close_share. Manifold scores and kernel_distance are of the extractor's features, of the entries without one.
    With an extractor there are Frechet distances, and class figures where it has classes. `judges` names the features of every
    Frechet distance.

    Args:
        samples: what is judged, in random order, since subsets are of rows that follow each other; images are clamped to
            [-1, 1] and rounded to 8 bits, as a saved picture would be.
        train: the training set; images in [-1, 1].
        test: held-out samples.
        extractor: of features, such as the data set's classifier; the raw entries when None.
        reports: features of further Frechet distances, of images, by the keys of these; such as those of the report judges.
        seed: of the random directions and permutations.

    Raises:
        InputError: for mismatched shapes or entries that are not finite.
    """
    _checks.points("train", train)
    _checks.points("test", test, train.shape[1:])
    _checks.points("samples", samples, train.shape[1:])
    generator = _seeded(seed)
    if samples.ndim == 4:
        samples, train, test = (eight_bits(x) for x in (samples, train, test))
    size = min(len(samples), len(test))
    subsets = samples[: len(samples) // size * size].split(size)
    reference = test[torch.randperm(len(test), generator=generator)[:size]]
    entries = _Parts(subsets, reference, train, test)
    value, p_value = mmd_test(subsets[0][:_MOST], reference[:_MOST], generator=generator)
    some = test if len(test) <= _MOST else test[torch.randperm(len(test), generator=_seeded(seed))[:_MOST]]
    nearest, nearest_held_out = (nearest_distances(x, train) for x in (samples[:_MOST], some))
    features = entries if extractor is None else entries.features(extractor)
    report: dict[str, Any] = {
        "num_samples": len(samples),
        "subset_size": size,
        "features": "raw entries" if extractor is None else extractor.name,
        "sliced_w2": _mean([sliced_w2(s, train, generator=_seeded(seed)) for s in subsets]),
        f"sliced_w2{REFERENCE}": sliced_w2(reference, train, generator=_seeded(seed)),
        "energy_distance": _energy(subsets[0], train, seed),
        f"energy_distance{REFERENCE}": _energy(reference, train, seed),
        "mmd2": value,
        "mmd_p_value": p_value,
        "nearest_distance": float(nearest.median()),
        f"nearest_distance{REFERENCE}": float(nearest_held_out.median()),
        **asdict(memorisation(nearest, nearest_held_out)),
        **_kernel(features, seed),
        **_manifold(features, _seeded(seed)),
    }
    judges = dict(reports or {})
    if extractor is not None:
        report |= {**_frechet(features, size, generator), **_classes(features, extractor)}
        judges = {"frechet_distance": extractor, **judges}
    for key, judge in (reports or {}).items():
        report |= _report_distance(key, judge, entries)
    return report | {"judges": {key: judge.name for key, judge in judges.items()}}


def _report_distance(key: str, extractor: FeatureExtractor, parts: _Parts) -> dict[str, float]:
    """Return the Frechet distance of samples to training images, and of held-out images, in the features of a report judge."""
    moments = ReferenceStatistics.of(as_images(parts.train, "training images"), extractor).moments
    warn_if_deficient("samples", len(parts.reference), len(moments.mean))
    return {
        key: _mean([frechet_distance(extractor.features(subset), moments) for subset in parts.subsets]),
        f"{key}{REFERENCE}": frechet_distance(extractor.features(parts.reference), moments),
    }


def _energy(x: Tensor, train: Tensor, seed: int) -> float:
    """Return the energy distance of the entries of events to training events, of few enough of both."""
    rows = torch.randperm(len(train), generator=_seeded(seed))[:_MOST]
    first, second = (z.flatten(1).double() for z in (x[:_MOST], train[rows]))
    return float(mmd2(first, second, Riesz()))


def _kernel(parts: _Parts, seed: int) -> dict[str, dict[str, float]]:
    """Return the kernel distances of samples and of held-out events to training events."""
    size = min(len(parts.subsets[0]), len(parts.reference), len(parts.train), 1000)
    first, second = (
        kernel_distance(
            x.flatten(1), parts.train.flatten(1), num_subsets=_SUBSETS, subset_size=size, generator=_seeded(seed)
        ).plain
        for x in (parts.subsets[0], parts.reference)
    )
    return {"kernel_distance": first, f"kernel_distance{REFERENCE}": second}


def _manifold(parts: _Parts, generator: torch.Generator) -> dict[str, float]:
    """Return the scores of samples, and of as many held-out events, against as many training events."""
    size = min(len(parts.subsets[0]), len(parts.reference), len(parts.train), _MOST)
    train = parts.train[torch.randperm(len(parts.train), generator=generator)[:size]]
    return {
        **manifold_figures(parts.subsets[0][:size], train),
        **manifold_figures(parts.reference[:size], train, REFERENCE),
    }


def _frechet(parts: _Parts, size: int, generator: torch.Generator) -> dict[str, float]:
    """Return the Frechet distances to training and held-out data, of samples and of real data."""
    return {
        "frechet_distance": _mean([frechet_distance(subset, parts.train) for subset in parts.subsets]),
        f"frechet_distance{REFERENCE}": frechet_distance(parts.reference, parts.train),
        "frechet_distance_random_split": _mean(random_splits(torch.cat([parts.train, parts.test]), size, generator)),
        "frechet_distance_to_test": _mean([frechet_distance(subset, parts.test) for subset in parts.subsets]),
    }


def _classes(parts: _Parts, extractor: FeatureExtractor) -> dict[str, Any]:
    """Return the figures of classes, of samples and of held-out data; none where the extractor has no classes."""
    return {
        **class_figures(extractor.probabilities(torch.cat(list(parts.subsets)))),
        **class_figures(extractor.probabilities(parts.reference), REFERENCE),
    }


def random_splits(features: Tensor, size: int, generator: torch.Generator, splits: int = 10) -> list[float]:
    """Return the Frechet distances between `size` random rows and the rest."""
    distances = []
    for _ in range(splits):
        order = torch.randperm(len(features), generator=generator)
        distances.append(frechet_distance(features[order[:size]], features[order[size:]]))
    return distances


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
