"""The data of a recipe: in memory, or images that stay bytes on disk until a batch needs them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from mmdflow import _checks, data
from mmdflow.data import DataSet, ImageSet
from mmdflow.recipe.specs import IMAGE_SETS, DataSpec

#: Images of each part, drawn once and for all, against which samples of an image set are judged.
JUDGED = 10_000


@dataclass(frozen=True)
class ImageData:
    """Training images, in the place of a `DataSet` whose tensors would not fit into memory.

    Attributes:
        name: the name it was loaded by.
        train: the training images.
    """

    name: str
    train: ImageSet

    @property
    def train_labels(self) -> Int[Tensor, " n"] | None:
        """Class indices, or None."""
        return self.train.labels

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
        return ImageData(spec.name, _images(spec, "train", flip=spec.flip))
    dataset = data.load(spec.name, spec.path)
    _checks.points("data", dataset.train)
    if spec.scale == 1:
        return dataset
    return replace(dataset, train=dataset.train * spec.scale, test=dataset.test * spec.scale)


def judged_data(spec: DataSpec) -> DataSet:
    """Return the data to judge samples by, in its own units; of an image set at most `JUDGED` images a part, always the same."""
    if spec.name not in IMAGE_SETS:
        return data.load(spec.name, spec.path)
    images = _images(spec, "train")
    (train, train_labels), (test, test_labels) = judged_part(images), judged_part(_images(spec, "test"))
    return DataSet(spec.name, train, test, train_labels, test_labels, images.source)


def judged_part(images: ImageSet) -> tuple[Tensor, Tensor | None]:
    """Return at most `JUDGED` images, always the same, and their labels."""
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:JUDGED]
    return images[rows], None if images.labels is None else images.labels[rows]


def _images(spec: DataSpec, split: str, *, flip: bool = False) -> ImageSet:
    preset = data.NAMED.get(spec.name)
    return data.images(
        spec.name if spec.path is None else spec.path,
        split,
        spec.size if spec.size is not None or preset is None else preset.size,
        channels=spec.channels or 3,
        crop=None if preset is None else preset.crop,
        flip=flip,
    )
