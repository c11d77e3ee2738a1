"""The first look at a set of samples: every figure beside the same figure of real held-out samples."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import eight_bits
from mmdflow.metrics.classifier import Classifier
from mmdflow.metrics.frechet import frechet_distance
from mmdflow.metrics.manifold import NEIGHBOURS, manifold_scores
from mmdflow.metrics.neighbours import nearest_distances
from mmdflow.metrics.sliced import sliced_w2
from mmdflow.metrics.two_sample import mmd_test

#: Samples at most in the permutation test, the nearest-neighbour search and the manifold scores.
_MOST = 2000


def evaluate_samples(
    samples: Float[Tensor, "n *event"],
    train: Float[Tensor, "m *event"],
    test: Float[Tensor, "k *event"],
    *,
    classifier: Classifier | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of a report, in plain types.

    Distances to the training set are averaged over disjoint subsets of the samples of the held-out set's size, because the
    Frechet distance depends on the number of samples; `..._reference` is the same figure of the held-out set itself. Where
    the held-out set is balanced over classes, as that of the digits is, no independent draw of real data reaches its
    Frechet distance; `classifier_fd_random_split` is the mean of ten random splits of all real data into as many and the rest.

    Keys: num_samples, sliced_w2(_reference), mmd2, mmd_p_value (samples against held-out, Gaussian kernel on the entries with
    the median bandwidth), nearest_train_distance(_reference) (medians), precision, recall, density and coverage (each with
    _reference; of the classifier's features, or of the entries without one, against as many training events; left out for a
    handful of samples), and with a classifier: classifier, classifier_fd(_reference, _random_split), classifier_fd_to_test (the
    same distance to the whole held-out set),
    classifier_confidence(_reference), class_histogram(_reference).

    Args:
        samples: what is judged; images are clamped to [-1, 1] and rounded to 8 bits, as a saved picture would be.
        train: the training set.
        test: held-out samples.
        classifier: of the data set, for images with labels.
        seed: of the random directions and permutations.

    Raises:
        InputError: for mismatched shapes or entries that are not finite.
    """
    _checks.points("train", train)
    _checks.points("test", test, train.shape[1:])
    _checks.points("samples", samples, train.shape[1:])
    generator = torch.Generator().manual_seed(seed)
    if samples.ndim == 4:
        samples, train, test = (eight_bits(x) for x in (samples, train, test))
    size = min(len(samples), len(test))
    subsets = samples[: len(samples) // size * size].split(size)
    reference = test[torch.randperm(len(test), generator=generator)[:size]]
    mmd2, p_value = mmd_test(subsets[0][:_MOST], reference[:_MOST], generator=generator)
    of_train, of_samples, of_reference = train, list(subsets), reference
    if classifier is not None:
        of_train, of_samples = classifier.features(train), [classifier.features(s) for s in subsets]
        of_reference = classifier.features(reference)
    report: dict[str, Any] = {
        "num_samples": len(samples),
        "subset_size": size,
        "sliced_w2": _mean([sliced_w2(s, train, generator=_seeded(seed)) for s in subsets]),
        "sliced_w2_reference": sliced_w2(reference, train, generator=_seeded(seed)),
        "mmd2": mmd2,
        "mmd_p_value": p_value,
        "nearest_train_distance": float(nearest_distances(samples[:_MOST], train).median()),
        "nearest_train_distance_reference": float(nearest_distances(test[:_MOST], train).median()),
        **_manifold(of_samples[0], of_reference, of_train, _seeded(seed)),
    }
    if classifier is None:
        return report
    of_test = classifier.features(test)
    probabilities, expected = classifier.probabilities(torch.cat(of_samples)), classifier.probabilities(of_reference)
    return {
        **report,
        "classifier": classifier.name,
        "classifier_fd": _mean([frechet_distance(f, of_train) for f in of_samples]),
        "classifier_fd_reference": frechet_distance(of_reference, of_train),
        "classifier_fd_random_split": _random_split(torch.cat([of_train, of_test]), size, generator),
        "classifier_fd_to_test": _mean([frechet_distance(f, of_test) for f in of_samples]),
        "classifier_confidence": float(probabilities.max(1).values.mean()),
        "classifier_confidence_reference": float(expected.max(1).values.mean()),
        "class_histogram": _histogram(probabilities),
        "class_histogram_reference": _histogram(expected),
    }


def _manifold(samples: Tensor, reference: Tensor, train: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Return the scores of samples, and of as many held-out events, against as many training events."""
    size = min(len(samples), len(reference), len(train), _MOST)
    if size <= NEIGHBOURS:
        return {}
    of_train = train[torch.randperm(len(train), generator=generator)[:size]].flatten(1)
    scores: dict[str, float] = {}
    for ending, features in (("", samples), ("_reference", reference)):
        found = manifold_scores(features[:size].flatten(1), of_train)
        scores |= {f"{name}{ending}": value for name, value in asdict(found).items()}
    return scores


def _random_split(features: Tensor, size: int, generator: torch.Generator) -> float:
    distances = []
    for _ in range(10):
        order = torch.randperm(len(features), generator=generator)
        distances.append(frechet_distance(features[order[:size]], features[order[size:]]))
    return _mean(distances)


def _histogram(probabilities: Tensor) -> list[float]:
    counts = probabilities.argmax(1).bincount(minlength=probabilities.shape[1])
    return [round(share, 6) for share in (counts / counts.sum()).tolist()]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
