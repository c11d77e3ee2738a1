"""What is kept of a reference: its features' moments and a part of the features, streamed once and cached."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow._files import cache_folder, new_file
from mmdflow.data import ImageSet
from mmdflow.errors import InputError
from mmdflow.metrics import Moments
from mmdflow.metrics.extractors import FeatureExtractor

log = logging.getLogger(__name__)

#: Images of the reference, drawn once and for all, whose features serve precision, recall, density, coverage and KID.
MOST_FEATURES = 10_000


@dataclass(frozen=True)
class ReferenceStatistics:
    """What is kept of a reference's features.

    Attributes:
        moments: of all of them.
        features: of at most 10 000 images, always the same, [m, K].
    """

    moments: Moments
    features: Float[Tensor, "m K"]

    @classmethod
    def of(cls, reference: ImageSet, extractor: FeatureExtractor, *, progress: bool = False) -> ReferenceStatistics:
        """Return the statistics: from the cache, or computed now in one pass and cached.

        The key is a hash of the images and of the extractor's name, which holds a hash of its weights. A damaged file gives a
        warning and is made again.
        """
        file = cache_folder() / "references" / f"{_digest(reference, extractor)}.safetensors"
        if file.exists():
            try:
                return cls._read(file)
            except Exception as error:  # of damage there are many kinds
                log.warning("cached reference %s is damaged (%s): computed again", file, type(error).__name__)
        statistics = cls._computed(reference, extractor, progress)
        try:
            with new_file(file) as aside:
                save_file(statistics._tensors(), aside)
        except InputError as error:  # a read-only cache costs time, not the result
            log.warning("the reference is not cached: %s", error)
        return statistics

    @classmethod
    def _computed(cls, reference: ImageSet, extractor: FeatureExtractor, progress: bool) -> ReferenceStatistics:
        drawn = set(torch.randperm(len(reference), generator=torch.Generator().manual_seed(0))[:MOST_FEATURES].tolist())
        parts: list[Tensor] = []

        def batches() -> Iterator[Tensor]:
            start = 0
            for batch in feature_batches(reference, extractor, "reference", progress):
                parts.append(batch[[i for i in range(len(batch)) if start + i in drawn]])
                start += len(batch)
                yield batch

        moments = Moments.of_batches(batches())
        return cls(moments, torch.cat(parts))

    @classmethod
    def _read(cls, file: Path) -> ReferenceStatistics:
        tensors = load_file(file)
        moments = Moments(int(tensors["count"]), tensors["mean"], tensors["scatter"])
        return cls(moments, tensors["kept"])

    def _tensors(self) -> dict[str, Tensor]:
        """Return what the cache holds."""
        return {
            "count": torch.tensor(self.moments.count),
            "mean": self.moments.mean,
            "scatter": self.moments.scatter,
            "kept": self.features.contiguous(),
        }


def feature_batches(
    images: ImageSet, extractor: FeatureExtractor, name: str, progress: bool = False
) -> Iterator[Tensor]:
    """Yield the features of images, a batch at a time, in float32 on the CPU; `name` is what the bar says they are of."""
    with tqdm(total=len(images), desc=f"features of {name}", unit="image", disable=not progress) as bar:
        for batch in images.batches(512):
            yield extractor.features(batch).float().cpu()
            bar.update(len(batch))


def _digest(images: ImageSet, extractor: FeatureExtractor) -> str:
    digest = hashlib.sha256(f"{extractor.name} {images.pixels.shape} {images.flip}".encode())
    for start in range(0, len(images.pixels), 4096):
        digest.update(np.ascontiguousarray(images.pixels[start : start + 4096]).tobytes())
    return digest.hexdigest()[:16]
