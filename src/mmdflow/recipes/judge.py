"""Figures of samples against a reference: features streamed once, the reference's kept in the cache, a page to look at."""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

import mmdflow
from mmdflow import _checks, metrics, plots
from mmdflow._files import cache_folder, commit, make_folder, new_file
from mmdflow.data import ImageSet
from mmdflow.errors import InputError
from mmdflow.kernels import squared_distances
from mmdflow.metrics import Moments
from mmdflow.metrics.extractors import FeatureExtractor
from mmdflow.metrics.frechet import warn_if_deficient
from mmdflow.metrics.manifold import NEIGHBOURS
from mmdflow.recipes.protocols import said

log = logging.getLogger(__name__)

#: Images of the reference, drawn once and for all, whose features serve precision, recall, density, coverage and KID.
_KEPT = 10_000
#: Samples whose nearest neighbours are looked for.
_SEARCHED = 1000


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


def judge(
    samples: ImageSet,
    reference: ImageSet,
    extractor: FeatureExtractor,
    *,
    seed: int = 0,
    repeats: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Return the figures of samples against a reference, in plain types.

    Keys: frechet_distance (FID where the features are the standard Inception's), frechet_interval (95 percent, bootstrap),
    frechet_at_infinity (of at least 4 samples a feature), kernel_distance and inception_score (mean, std; the latter where the
    features have classes), precision, recall, density, coverage, sliced_w2, nearest_reference_distance (median Euclidean
    distance of pixels in [-1, 1]); numbers, names, seconds.

    Args:
        samples: what is judged.
        reference: what it is judged against, of the same shape.
        extractor: the features.
        seed: of everything random.
        repeats: bootstrap sets; 100, or 20 of more than 256 features, by default.
        progress: show bars.

    Raises:
        InputError: for images of another shape than the reference's.
    """
    check_alike(samples.source, samples.event_shape, reference)
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(_checks.count("seed", seed, 0))
    of_reference = ReferenceStatistics.of(reference, extractor, progress=progress)
    features = _all_features(samples, extractor, progress)
    rate = len(samples) / max(time.perf_counter() - start, 1e-9)
    for name, count in (("samples", len(samples)), ("reference", of_reference.moments.count)):
        warn_if_deficient(name, count, features.shape[1])
    kept = of_reference.kept
    size = min(len(features), len(kept))
    some = features[torch.randperm(len(features), generator=generator)[:size]]
    report: dict[str, Any] = {
        "frechet_distance": metrics.frechet_distance(features, of_reference.moments),
        "kernel_distance": asdict(
            metrics.kernel_distance(some, kept, subset_size=min(1000, size), generator=generator)
        ),
    }
    if repeats is None:
        repeats = 100 if features.shape[1] <= 256 else 20
    interval = metrics.frechet_interval(features, of_reference.moments, repeats=repeats, generator=generator)
    report["frechet_interval"] = list(interval)
    if len(features) >= 4 * features.shape[1]:
        report["frechet_at_infinity"] = metrics.frechet_at_infinity(features, of_reference.moments, generator=generator)
    probabilities = extractor.probabilities(features)
    if probabilities is not None:
        shuffled = probabilities[torch.randperm(len(features), generator=generator)]
        report["inception_score"] = asdict(metrics.inception_score(shuffled, splits=min(10, len(features))))
    if size > NEIGHBOURS:
        report |= asdict(metrics.manifold_scores(some, kept[:size]))
    few = samples[torch.randperm(len(samples), generator=generator)[:_SEARCHED]]
    distances, _ = nearest(few, reference)
    return report | {
        "sliced_w2": metrics.sliced_w2(few, reference[torch.arange(min(len(reference), _KEPT))], generator=generator),
        "nearest_reference_distance": float(distances.median()),
        "features": extractor.name,
        "num_features": features.shape[1],
        "num_samples": len(samples),
        "num_reference": len(reference),
        "samples": samples.source,
        "reference": reference.source,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 2),
        "images_a_second": round(rate, 1),
        "mmdflow": mmdflow.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def nearest(samples: Float[Tensor, "n c h w"], reference: ImageSet) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the distance of each sample to the nearest image of a reference, and which one that is; a batch at a time."""
    best = samples.new_full((len(samples),), float("inf"))
    which, start = torch.zeros(len(samples), dtype=torch.long), 0
    flat = samples.flatten(1)
    for batch in reference.batches(4096):
        found = squared_distances(flat, batch.flatten(1)).min(1)
        better = found.values < best
        best, which = torch.where(better, found.values, best), torch.where(better, found.indices + start, which)
        start += len(batch)
    return best.sqrt(), which


def save_page(report: dict[str, Any], samples: ImageSet, reference: ImageSet, folder: Path) -> Path:
    """Write a page to look at: the figures, a grid of samples, and samples beside their nearest images of the reference.

    Returns:
        The page, `report.md`, beside `samples.png` and `neighbours.png`.
    """
    make_folder(folder)
    shown = samples[torch.arange(min(64, len(samples)))]
    plots.save_samples(shown, folder / "samples.png")
    few = shown[:16]
    _, rows = nearest(few, reference)
    plots.save_samples(torch.stack([few, reference[rows]], 1).flatten(0, 1), folder / "neighbours.png")
    shown_keys = [key for key, value in report.items() if not isinstance(value, dict) or "std" in value]
    lines = [f"| {key.replace('_', ' ')} | {said(report[key])} |" for key in shown_keys]
    text = "\n".join(
        (
            f"# {report['samples']}",
            "",
            "| | |",
            "|---|---|",
            *lines,
            "",
            "![the first samples](samples.png)",
            "",
            "Samples, each beside the nearest image of the reference by the distance of pixels:",
            "",
            "![samples and their nearest neighbours](neighbours.png)",
            "",
        )
    )
    with new_file(folder / "report.md") as aside:
        aside.write_text(text)
    return folder / "report.md"


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
