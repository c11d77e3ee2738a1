"""Protocols by name, and what they name: images of any program, references, features."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, data
from mmdflow._tensors import to_bytes
from mmdflow.data import DataSet, ImageSet
from mmdflow.data.image_sources import NAMED
from mmdflow.errors import InputError
from mmdflow.evaluation.data_judges import RANDOM, VALIDATION, kind_of
from mmdflow.metrics.extractors import FeatureExtractor, feature_extractor
from mmdflow.recipe import DataSpec
from mmdflow.recipe.data import judged_data, judged_part, split

log = logging.getLogger(__name__)

#: Data sets that `mmdflow.data.load` holds in memory, with labels for a classifier of their own.
_LABELLED = ("digits", "mnist", "fashion")


@dataclass(frozen=True)
class EvaluationProtocol:
    """How the literature judges samples of a data set.

    Attributes:
        data: name of the data set.
        split: its part that is the reference.
        num_samples: how many samples are judged.
        says: the rule in words, with its source.
    """

    data: str
    split: str
    num_samples: int
    says: str


_FRANCESCHI = "Franceschi et al. 2023: against the full test split"
PROTOCOLS: dict[str, EvaluationProtocol] = {
    "cifar10": EvaluationProtocol(
        "cifar10", "train", 50_000, "50 000 samples against the training set (Heusel et al. 2017; Ho et al. 2020)"
    ),
    "mnist": EvaluationProtocol("mnist", "test", 10_000, f"{_FRANCESCHI}, grey repeated to 3 channels for Inception"),
    "fashion": EvaluationProtocol("fashion", "test", 10_000, "as mnist, on Fashion-MNIST"),
    "celeba": EvaluationProtocol(
        "celeba64", "test", 19_962, f"{_FRANCESCHI}; the centred 140 pixels are cut out, then resized to 64 (ours)"
    ),
    "lsun-church": EvaluationProtocol(
        "church64", "train", 50_000, "Ho et al. 2020: 50 000 samples against the training set"
    ),
}


def protocol(name: str) -> EvaluationProtocol:
    """Return a protocol by name.

    Raises:
        InputError: for an unknown one; lists them.
    """
    return PROTOCOLS[_checks.choice("protocol", name, PROTOCOLS)]


def open_images(name_or_path: str, split: str = "train", like: ImageSet | None = None) -> ImageSet:
    """Return images of a data set's name, a folder of pictures, a .npz of samples or anything that `mmdflow.data.images` reads.

    Ranges: pictures and arrays of bytes are in [0, 255], samples in floating point (`samples` of an .npz, .pt, .csv) in [-1, 1].
    Samples without a negative entry are taken for images in [0, 1], and refused.

    Args:
        name_or_path: where they are.
        split: train or test, of data sets.
        like: images whose channels they are read with.

    Raises:
        InputError: if there is nothing, images are of several sizes, or entries are not finite or out of range.
    """
    _checks.choice("split", split, ("train", "test"))
    if name_or_path in _LABELLED:
        dataset = data.load(name_or_path)
        return as_images(dataset.train if split == "train" else dataset.test, f"{dataset.source} ({split})")
    on_hub = name_or_path.startswith(data.HUB)
    if name_or_path not in NAMED and not on_hub and not Path(name_or_path).exists():
        names = (*_LABELLED, *NAMED)
        raise InputError(
            f"{name_or_path}: no such folder, .npz, .npy or .parquet file, nor one of {', '.join(names)}"
            f"{_checks.near(name_or_path, names)}"
        )
    path, channels = Path(name_or_path), 3 if like is None else like.event_shape[0]
    if (
        not on_hub
        and path.suffix.lower() in data.POINT_FILES
        and path.suffix.lower() != ".npy"
        and _holds_samples(path)
    ):
        if split != "train":
            raise InputError(f"{path}: is one file, all training data; split = {split!r} needs a data set of two parts")
        samples = data.read_points(path)
        if samples.ndim != 4:
            raise InputError(f"{path}: samples are {list(samples.shape)}: must be images, [n, c, h, w] in [-1, 1]")
        images = as_images(samples, str(path))
        low, high = float(samples.min()), float(samples.max())
        if low >= 0 and high > 0:
            raise InputError(
                f"{path}: entries lie in [{low:.3g}, {high:.3g}]: must be in [-1, 1]; 2 x - 1 takes images in [0, 1] there"
            )
        return images
    return data.images(name_or_path, split, channels=channels)


def other_part(name_or_path: str, split: str, like: ImageSet) -> ImageSet | None:
    """Return the other part of a data set, test for train and train for test; None where it has none of the same shape.

    Args:
        name_or_path: as of `open_images`.
        split: the part that is known already.
        like: its images.
    """
    try:
        other = open_images(name_or_path, "test" if split == "train" else "train", like)
    except InputError as error:
        log.info("nothing is held out: %s", error)
        return None
    return other if other.event_shape == like.event_shape else None


def _holds_samples(path: Path) -> bool:
    if path.suffix.lower() != ".npz":
        return True
    try:
        with np.load(path) as arrays:
            return "samples" in arrays
    except (OSError, ValueError):
        return False


def as_images(images: Float[Tensor, "n c h w"], source: str) -> ImageSet:
    """Return images in [-1, 1] as bytes.

    Raises:
        InputError: for entries that are not finite or out of range, or events that are no images.
    """
    _checks.points(source, images)
    if float(images.abs().max()) > 1 + 1e-3:
        raise InputError(f"{source}: entries reach {float(images.abs().max()):.3g}: must be in [-1, 1]")
    return ImageSet(to_bytes(images).cpu().numpy(), source=source)


def open_samples(path: str, reference: ImageSet, count: int | None, seed: int) -> ImageSet:
    """Return images of any program to be judged, as `open_images` reads them; `count` of them, drawn without replacement.

    Raises:
        InputError: if there are not so many, or they cannot be read.
    """
    images = open_images(path, "train", reference)
    if count is None:
        return ImageSet(images.pixels, source=path)
    if _checks.count("num_samples", count) > len(images):
        raise InputError(f"num_samples = {count}: must be at most {len(images)}, the images of {path}")
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count].numpy()
    return ImageSet(images.pixels[rows], source=path)


def extractor_for(features: str | None, reference: str, device: str = "cpu") -> FeatureExtractor:
    """Return the features to judge by: of a judge of the reference's own, or what `feature_extractor` knows.

    Its own judges are "own" (validation), "report" and "random". By default it is the validation judge of digits, mnist and
    fashion, Inception for the other named sets; for other references the validation judge where there are labels, else
    "random". Networks other than a data set's own compute on `device`.

    Raises:
        InputError: for an unknown name, or a judge that needs labels of a reference that has none.
    """
    name = features or ("inception" if reference in NAMED else None)
    if name is not None and (kind := kind_of(name)) is None:
        return feature_extractor(name, device)
    dataset = _judged_reference(reference)
    if name is None:
        name = (VALIDATION if VALIDATION.lack(dataset) is None else RANDOM).features
        kind = kind_of(name)
    assert kind is not None
    return kind.open(dataset, f"features = {name!r} with reference = {reference!r}")


def _judged_reference(name_or_path: str) -> DataSet:
    """Return both parts of a reference as the data set of its judges; of one part with labels a tenth is held out."""
    if name_or_path in _LABELLED or name_or_path in NAMED:
        return judged_data(DataSpec(name_or_path))
    images = open_images(name_or_path)
    other = other_part(name_or_path, "train", images)
    if other is None and images.labels is not None:
        images, other = split(images, DataSpec().held_out)
    train, labels = judged_part(images)
    test, test_labels = (train[:0], None) if other is None else judged_part(other)
    return DataSet(name_or_path, train, test, labels, test_labels, images.source)
