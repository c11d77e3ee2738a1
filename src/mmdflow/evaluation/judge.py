"""Images judged against a reference, by the features of any network."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mmdflow
from mmdflow import _checks, metrics
from mmdflow._files import commit
from mmdflow.data import ImageSet
from mmdflow.errors import InputError
from mmdflow.evaluation.figures import REFERENCE
from mmdflow.evaluation.neighbours import Neighbours, nearest
from mmdflow.evaluation.reference import MOST_FEATURES, ReferenceStatistics, feature_batches
from mmdflow.evaluation.statistics import energy_figures, frechet_figures, manifold_figures, score_figures
from mmdflow.metrics.extractors import FeatureExtractor
from mmdflow.metrics.frechet import warn_if_deficient

#: Samples, and held-out images, whose nearest training images are searched.
_SEARCHED = 1000


def check_alike(samples: str, shape: tuple[int, ...], reference: ImageSet) -> None:
    """Raise InputError if samples have another shape than the images that they are judged against."""
    if shape != reference.event_shape:
        required = f"must be {list(reference.event_shape)}, as {reference.source}"
        raise InputError(f"{samples}: holds images {list(shape)}: {required}")


@dataclass(frozen=True)
class Judgement:
    """The result of `judge`.

    Attributes:
        figures: in plain types, by the keys of `mmdflow.evaluation.figures`, with what was measured and by which program.
        neighbours: the nearest training images of samples drawn at random.
    """

    figures: dict[str, Any]
    neighbours: Neighbours


@dataclass(frozen=True)
class Comparison:
    """What samples are judged against.

    Attributes:
        reference: images of the data.
        training: images that may have been copied; the reference when None.
        held_out: images of the same source as `training`, and not in it; no memorisation is measured when None.
    """

    reference: ImageSet
    training: ImageSet | None = None
    held_out: ImageSet | None = None

    @property
    def searched(self) -> ImageSet:
        """The images that copies may be of."""
        return self.reference if self.training is None else self.training

    def check(self, samples: ImageSet) -> None:
        """Raise InputError for images of another shape than the reference's, or fewer than 2."""
        for images in (samples, self.searched, *([] if self.held_out is None else [self.held_out])):
            check_alike(images.source, images.event_shape, self.reference)
        for images in (samples, self.reference):
            if len(images) < 2:
                raise InputError(f"{images.source}: holds 1 image: must hold at least 2")


def judge(
    samples: ImageSet,
    reference: ImageSet,
    extractor: FeatureExtractor,
    *,
    training: ImageSet | None = None,
    held_out: ImageSet | None = None,
    seed: int = 0,
    repeats: int | None = None,
    progress: bool = False,
) -> Judgement:
    """Return the figures of samples against a reference; `mmdflow.evaluation.figures` has their keys and meanings.

    Of features: Frechet and kernel distance, inception score (where the features have classes), manifold scores, energy distance
    and test. Of pixels in [-1, 1]: sliced W_2, nearest distances, and with held-out images those of memorisation.

    Args:
        samples: what is judged.
        reference: what it is judged against, of the same shape.
        extractor: the features.
        training: images that may have been copied; the reference when None.
        held_out: images of the same source as `training`, and not in it.
        seed: of everything random.
        repeats: bootstrap sets; 100, or 20 of more than 256 features, by default.
        progress: show bars.

    Raises:
        InputError: for images of another shape than the reference's, or fewer than 2.
    """
    against = Comparison(reference, training, held_out)
    against.check(samples)
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(_checks.count("seed", seed, 0))
    statistics = ReferenceStatistics.of(reference, extractor, progress=progress)
    features = _all_features(samples, extractor, progress)
    rate = len(samples) / max(time.perf_counter() - start, 1e-9)
    num_features = features.shape[1]
    figures = _feature_figures(features, statistics, extractor, generator, repeats)
    del features, statistics  # what follows needs memory of its own
    pixels, neighbours = _pixel_figures(samples, against, generator)
    figures |= {
        **pixels,
        "features": extractor.name,
        "num_features": num_features,
        "num_samples": len(samples),
        "num_reference": len(reference),
        "num_neighbours": len(neighbours.rows),
        "samples": samples.source,
        "reference": reference.source,
        "training": against.searched.source,
        "held_out": None if held_out is None else held_out.source,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 2),
        "images_a_second": round(rate, 1),
        "mmdflow": mmdflow.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    return Judgement(figures, neighbours)


def _feature_figures(
    features: Float[Tensor, "n K"],
    reference: ReferenceStatistics,
    extractor: FeatureExtractor,
    generator: torch.Generator,
    repeats: int | None,
) -> dict[str, Any]:
    """Return the figures of features: of all of them, then of as many of samples and reference."""
    for name, count in (("samples", len(features)), ("reference", reference.moments.count)):
        warn_if_deficient(name, count, features.shape[1])
    figures = frechet_figures(features, reference, generator, repeats)
    figures |= score_figures(extractor.probabilities(features), generator)
    size = min(len(features), len(reference.features))
    equal, equal_reference = (
        x[torch.randperm(len(x), generator=generator)[:size]].double() for x in (features, reference.features)
    )
    figures |= manifold_figures(equal, equal_reference)
    return figures | energy_figures(equal, equal_reference, generator)


def _pixel_figures(
    samples: ImageSet, against: Comparison, generator: torch.Generator
) -> tuple[dict[str, float], Neighbours]:
    """Return the figures of pixels, and the nearest training images of samples drawn at random."""
    rows = _drawn(samples, _SEARCHED, generator)
    drawn = samples[rows]
    reference = against.reference[_drawn(against.reference, MOST_FEATURES, generator)]
    figures = {"sliced_w2": metrics.sliced_w2(drawn, reference, generator=generator)}
    held_out = None if against.held_out is None else against.held_out[_drawn(against.held_out, _SEARCHED, generator)]
    distances, indices = nearest(drawn if held_out is None else torch.cat([drawn, held_out]), against.searched)
    neighbours = Neighbours(rows, indices[: len(drawn)], distances[: len(drawn)])
    figures["nearest_distance"] = float(neighbours.distances.median())
    if held_out is not None:
        held_out_distances = distances[len(drawn) :]
        figures[f"nearest_distance{REFERENCE}"] = float(held_out_distances.median())
        figures |= asdict(metrics.memorisation(neighbours.distances, held_out_distances))
    return figures, neighbours


def _drawn(images: ImageSet, count: int, generator: torch.Generator) -> Int[Tensor, " k"]:
    """Draw rows of images, at most `count`: sets may be ordered by class."""
    return torch.randperm(len(images), generator=generator)[:count]


def _all_features(images: ImageSet, extractor: FeatureExtractor, progress: bool) -> Float[Tensor, "n K"]:
    """Return the features of all images, in memory that is taken once."""
    features, start = torch.empty(0), 0
    for batch in feature_batches(images, extractor, "samples", progress):
        if start == 0:
            features = batch.new_empty(len(images), batch.shape[1])
        features[start : start + len(batch)] = batch
        start += len(batch)
    return features
