"""The data of a recipe: in memory, or images that stay bytes on disk until a batch needs them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from mmdflow import _checks, data
from mmdflow.data import DataSet, ImageSet
from mmdflow.errors import InputError, MissingPartError
from mmdflow.recipe.specs import IMAGE_SETS, DataSpec

log = logging.getLogger(__name__)

#: Share of the images that stands for held-out ones where there are none, and how few images can be split.
_STAND_IN, _LEAST = 0.1, 4
#: Images of each part, drawn once and for all, against which samples of an image set are judged.
JUDGED = 10_000


@dataclass(frozen=True)
class ImageData:
    """Training images, in the place of a `DataSet` whose tensors would not fit into memory.

    Attributes:
        name: the name it was loaded by.
        train: the training images.
        held_out: how many others are held out.
        split: whether those were taken out of the training part, as the source has no other.
    """

    name: str
    train: ImageSet
    held_out: int = 0
    split: bool = False

    @property
    def train_labels(self) -> Int[Tensor, " n"] | None:
        """Class indices, or None."""
        return self.train.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, where they have names."""
        return self.train.classes

    @property
    def source(self) -> str:
        """Where the images come from, for reports."""
        return self.train.source

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of an image."""
        return self.train.event_shape

    @property
    def second_moment(self) -> float:
        """Mean square of the entries, estimated."""
        return self.train.second_moment


def load_data(spec: DataSpec) -> DataSet | ImageData:
    """Return the data to train on, scaled as the recipe says."""
    if spec.name in IMAGE_SETS:
        parts = _parts(spec, flip=spec.flip)
        return ImageData(spec.name, parts.train, 0 if parts.test is None else len(parts.test), parts.split)
    dataset = data.load(spec.name, spec.path)
    _checks.points("data", dataset.train)
    if spec.scale == 1:
        return dataset
    return replace(dataset, train=dataset.train * spec.scale, test=dataset.test * spec.scale)


def judged_data(spec: DataSpec) -> DataSet:
    """Return the data to judge samples by, in its own units; of an image set at most `JUDGED` images a part, always the same.

    Where the source has no test part, that is the share `spec.held_out` that was not trained on. Where all was trained on, as
    held_out = 0 has it, a warning says so, and a tenth of the training images stands in its place.
    """
    if spec.name not in IMAGE_SETS:
        return data.load(spec.name, spec.path)
    parts = _parts(spec)
    if parts.test is None:
        log.warning(
            "%s: nothing is held out, all images were trained on; the figures of held-out data are of training images",
            parts.train.source,
        )
        parts = replace(parts, test=split(parts.train, _STAND_IN)[1])
    if parts.test is None:
        raise InputError(
            f"{parts.train.source}: holds {len(parts.train)} images: must be at least {_LEAST} to be judged"
        )
    (train, train_labels), (test, test_labels) = judged_part(parts.train), judged_part(parts.test)
    return DataSet(spec.name, train, test, train_labels, test_labels, parts.train.source)


def judged_part(images: ImageSet) -> tuple[Tensor, Tensor | None]:
    """Return at most `JUDGED` images, always the same, and their labels."""
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:JUDGED]
    return images[rows], None if images.labels is None else images.labels[rows]


def split(images: ImageSet, share: float, *, flip: bool = False) -> tuple[ImageSet, ImageSet | None]:
    """Split images into those to train on and those that are held out: always the same ones, of every class alike.

    Args:
        images: all of them, without mirror images.
        share: of them that is held out, in [0, 1). At least one of each class is, and at least two in all, where half stay.
        flip: whether the first part holds mirror images too.

    Returns:
        Both parts; the first with all images and None where nothing is held out.
    """
    count, generator = len(images), torch.Generator().manual_seed(0)
    labels = torch.zeros(count, dtype=torch.long) if images.labels is None else images.labels
    held_out = torch.zeros(count, dtype=torch.bool)
    for members in (torch.nonzero(labels == label).flatten() for label in labels.unique()):
        size = min(max(round(share * len(members)), 1 if images.labels is not None else 2), len(members) // 2)
        held_out[members[torch.randperm(len(members), generator=generator)[:size]]] = True
    if share == 0 or int(held_out.sum()) < 2:
        return images.part(torch.arange(count), images.source, flip=flip), None
    source = images.source.removesuffix(" (train)")
    train, test = (torch.nonzero(mask).flatten() for mask in (~held_out, held_out))
    return (
        images.part(train, f"{source} (all but {len(test)} held out)", flip=flip),
        images.part(test, f"{source} ({len(test)} held out)"),
    )


@dataclass(frozen=True)
class _Parts:
    """The training images, those that are held out, if any, and whether they were split here."""

    train: ImageSet
    test: ImageSet | None
    split: bool


def _parts(spec: DataSpec, *, flip: bool = False) -> _Parts:
    """Return the parts of an image set; where it has no test part, one is split off."""
    images = _images(spec, "train")
    try:
        test = _images(spec, "test")
    except MissingPartError:
        return _Parts(*split(images, spec.held_out, flip=flip), split=True)
    return _Parts(images.part(torch.arange(len(images)), images.source, flip=flip), test, split=False)


def _images(spec: DataSpec, part: str) -> ImageSet:
    preset = data.NAMED.get(spec.name)
    return data.images(
        spec.name if spec.path is None else spec.path,
        part,
        spec.size if spec.size is not None or preset is None else preset.size,
        channels=spec.channels or 3,
        crop=None if preset is None else preset.crop,
    )
