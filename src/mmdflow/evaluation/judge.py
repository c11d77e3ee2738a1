"""Figures of samples against a reference: features streamed once, the reference's kept in the cache."""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

import mmdflow
from mmdflow import _checks, metrics
from mmdflow._files import cache_folder, commit, new_file
from mmdflow.data import ImageSet
from mmdflow.divergences.functional import mmd2
from mmdflow.errors import InputError
from mmdflow.evaluation.neighbours import Neighbours, nearest
from mmdflow.kernels import Riesz
from mmdflow.metrics import Moments
from mmdflow.metrics.extractors import FeatureExtractor
from mmdflow.metrics.frechet import warn_if_deficient
from mmdflow.metrics.manifold import NEIGHBOURS

log = logging.getLogger(__name__)

#: Images of the reference, drawn once and for all, whose features serve precision, recall, density, coverage and KID.
_KEPT = 10_000
#: Samples, and held-out images, whose nearest neighbours are looked for.
_SEARCHED = 1000
#: Samples and images of the reference in the two-sample test, whose Gram matrix holds (2 x 2000)^2 entries.
_TESTED = 2000


@dataclass(frozen=True)
class ReferenceStatistics:
    """What is kept of a reference's features.

    Attributes:
        moments: of all of them.
        kept: features of at most 10 000 images, always the same, [m, K].
    """

    moments: Moments
    kept: Float[Tensor, "m K"]

    @classmethod
    def of(cls, reference: ImageSet, extractor: FeatureExtractor, *, progress: bool = False) -> ReferenceStatistics:
        """Return the statistics: from the cache, or computed now in one pass and cached.

        The key is a hash of the images and of the extractor's name, which holds a hash of its weights. A damaged file is said,
        and made again.
        """
        file = cache_folder() / "references" / f"{_digest(reference, extractor)}.safetensors"
        if file.exists():
            try:
                tensors = load_file(file)
                moments = Moments(int(tensors["count"]), tensors["mean"], tensors["scatter"])
                return cls(moments, tensors["kept"])
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                log.warning("cached reference %s is damaged (%s): computed again", file, type(error).__name__)
        keep = set(torch.randperm(len(reference), generator=torch.Generator().manual_seed(0))[:_KEPT].tolist())
        kept: list[Tensor] = []

        def batches() -> Iterator[Tensor]:
            start = 0
            for batch in _features(reference, extractor, "reference", progress):
                kept.append(batch[[i for i in range(len(batch)) if start + i in keep]])
                start += len(batch)
                yield batch

        moments = Moments.of_batches(batches())
        statistics = cls(moments, torch.cat(kept))
        try:
            with new_file(file) as aside:
                save_file(
                    {
                        "count": torch.tensor(moments.count),
                        "mean": moments.mean,
                        "scatter": moments.scatter,
                        "kept": statistics.kept.contiguous(),
                    },
                    aside,
                )
        except InputError as error:  # a read-only cache costs time, not the result
            log.warning("the reference is not cached: %s", error)
        return statistics


def check_alike(samples: str, shape: tuple[int, ...], reference: ImageSet) -> None:
    """Raise InputError if samples have another shape than the images that they are judged against."""
    if shape != reference.event_shape:
        wanted = f"must be {list(reference.event_shape)}, as {reference.source}"
        raise InputError(f"{samples}: holds images {list(shape)}: {wanted}")


@dataclass(frozen=True)
class Judgement:
    """What `judge` finds.

    Attributes:
        figures: in plain types, by name.
        neighbours: the nearest training images of samples drawn at random.
    """

    figures: dict[str, Any]
    neighbours: Neighbours


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
    """Return the figures of samples against a reference.

    Their keys, of features: frechet_distance (FID where the features are the standard Inception's), frechet_interval (95
    percent, bootstrap), frechet_at_infinity (of at least 4 samples a feature), kernel_distance and inception_score (mean, std;
    the latter where the features have classes), precision, recall, density, coverage, energy_distance (U-statistic) and
    energy_p_value. Of pixels in [-1, 1]: sliced_w2; nearest_distance, the median Euclidean distance to the nearest training
    image, and with held-out images nearest_distance_held_out, copying_z and close_share (`mmdflow.metrics.memorisation`).
    Besides: numbers, names, seconds.

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
    training = reference if training is None else training
    for images in (samples, training, *([] if held_out is None else [held_out])):
        check_alike(images.source, images.event_shape, reference)
    for images in (samples, reference):
        if len(images) < 2:
            raise InputError(f"{images.source}: holds 1 image: must hold at least 2")
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(_checks.count("seed", seed, 0))
    of_reference = ReferenceStatistics.of(reference, extractor, progress=progress)
    features = _all_features(samples, extractor, progress)
    rate = len(samples) / max(time.perf_counter() - start, 1e-9)
    for name, count in (("samples", len(samples)), ("reference", of_reference.moments.count)):
        warn_if_deficient(name, count, features.shape[1])
    num_features = features.shape[1]
    figures = _of_all(features, of_reference, generator, repeats)
    probabilities = extractor.probabilities(features)
    if probabilities is not None:
        shuffled = probabilities[torch.randperm(len(features), generator=generator)]
        figures["inception_score"] = asdict(metrics.inception_score(shuffled, splits=min(10, len(features))))
    size = min(len(features), len(of_reference.kept))
    some, of_some = (
        x[torch.randperm(len(x), generator=generator)[:size]].double() for x in (features, of_reference.kept)
    )
    del features, of_reference, probabilities  # what follows needs memory of its own
    figures |= _of_some(some, of_some, generator)
    del some, of_some
    rows = _drawn(samples, _SEARCHED, generator)
    few = samples[rows]
    figures["sliced_w2"] = metrics.sliced_w2(few, reference[_drawn(reference, _KEPT, generator)], generator=generator)
    others = None if held_out is None else held_out[_drawn(held_out, _SEARCHED, generator)]
    distances, found = nearest(few if others is None else torch.cat([few, others]), training)
    neighbours = Neighbours(rows, found[: len(few)], distances[: len(few)])
    figures["nearest_distance"] = float(neighbours.distances.median())
    if others is not None:
        of_others = distances[len(few) :]
        figures["nearest_distance_held_out"] = float(of_others.median())
        figures |= asdict(metrics.memorisation(neighbours.distances, of_others))
    figures |= {
        "features": extractor.name,
        "num_features": num_features,
        "num_samples": len(samples),
        "num_reference": len(reference),
        "num_neighbours": len(few),
        "samples": samples.source,
        "reference": reference.source,
        "training": training.source,
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


def _of_all(
    features: Float[Tensor, "n K"], reference: ReferenceStatistics, generator: torch.Generator, repeats: int | None
) -> dict[str, Any]:
    """Return the figures of all features, which are moments and subsets."""
    against, size = reference.moments, min(1000, len(features), len(reference.kept))
    subsets = metrics.kernel_distance(features, reference.kept, subset_size=size, generator=generator)
    if repeats is None:
        repeats = 100 if features.shape[1] <= 256 else 20
    interval = metrics.frechet_interval(features, against, repeats=repeats, generator=generator)
    figures: dict[str, Any] = {
        "frechet_distance": metrics.frechet_distance(features, against),
        "kernel_distance": asdict(subsets),
        "frechet_interval": list(interval),
    }
    if len(features) >= 4 * features.shape[1]:
        figures["frechet_at_infinity"] = metrics.frechet_at_infinity(features, against, generator=generator)
    return figures


def _of_some(
    features: Float[Tensor, "m K"], reference: Float[Tensor, "m K"], generator: torch.Generator
) -> dict[str, Any]:
    """Return the figures of as many features of samples and reference, drawn from them all."""
    figures: dict[str, Any] = {}
    if len(features) > NEIGHBOURS:
        figures |= asdict(metrics.manifold_scores(features, reference))
    figures["energy_distance"] = float(mmd2(features, reference, Riesz()))
    few, of_few = (x[:_TESTED].float() for x in (features, reference))
    _, p_value = metrics.mmd_test(few, of_few, Riesz(), generator=generator)
    return figures | {"energy_p_value": p_value}


def _drawn(images: ImageSet, count: int, generator: torch.Generator) -> Int[Tensor, " k"]:
    """Draw rows of images, at most `count`: sets may be ordered by class."""
    return torch.randperm(len(images), generator=generator)[:count]


def _all_features(images: ImageSet, extractor: FeatureExtractor, progress: bool) -> Float[Tensor, "n K"]:
    """Return the features of all images, in memory that is taken once."""
    features, start = torch.empty(0), 0
    for batch in _features(images, extractor, "samples", progress):
        if start == 0:
            features = batch.new_empty(len(images), batch.shape[1])
        features[start : start + len(batch)] = batch
        start += len(batch)
    return features


def _features(images: ImageSet, extractor: FeatureExtractor, what: str, progress: bool) -> Iterator[Tensor]:
    with tqdm(total=len(images), desc=f"features of {what}", unit="image", disable=not progress) as bar:
        for batch in images.batches(512):
            yield extractor.features(batch).float().cpu()
            bar.update(len(batch))


def _digest(images: ImageSet, extractor: FeatureExtractor) -> str:
    digest = hashlib.sha256(f"{extractor.name} {images.pixels.shape} {images.flip}".encode())
    for start in range(0, len(images.pixels), 4096):
        digest.update(np.ascontiguousarray(images.pixels[start : start + 4096]).tobytes())
    return digest.hexdigest()[:16]
