"""The one distance that tables rank by: a data set's own measure, or the Frechet distance in a network's features."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from mmdflow._tensors import eight_bits
from mmdflow.data import DataSet, ImageSet
from mmdflow.errors import InputError
from mmdflow.evaluation.protocols import PROTOCOLS, as_images, open_images, other_part
from mmdflow.evaluation.reference import ReferenceStatistics, feature_batches
from mmdflow.metrics import Classifier, Moments, frechet_distance, sliced_w2, train_classifier
from mmdflow.metrics.extractors import FeatureExtractor, feature_extractor
from mmdflow.metrics.frechet import warn_if_deficient
from mmdflow.recipe import DataSpec
from mmdflow.recipe.data import JUDGED, judged_data

log = logging.getLogger(__name__)

#: The features that stand for a data set's own measure.
OWN = "own"


def classifier_of(dataset: DataSet) -> Classifier | None:
    """Return the classifier of a data set with labels; None where there are none."""
    if dataset.train_labels is None or dataset.test_labels is None:
        return None
    return train_classifier(dataset.train, dataset.train_labels, dataset.test, dataset.test_labels)


class DistanceJudge(ABC):
    """The distance of samples to a data set's images, after rounding to 8 bits.

    Attributes:
        data: name of the data set.
        unit: what the distance is.
        name: what measures.
        fid: whether the distance is FID, as the literature has it.
        num_samples: that the literature draws, or we.
    """

    data: str
    unit: str
    name: str
    fid = False
    num_samples = JUDGED

    @abstractmethod
    def __call__(self, samples: Tensor) -> float:
        """Return the distance of samples."""

    @abstractmethod
    def held_out(self, count: int) -> float:
        """Return the distance of as many other images of the data set, where there are so many; nan where there is none."""


class DataJudge(DistanceJudge):
    """The distance to training images by the data's own measure, which is not FID.

    With labels it is the Frechet distance (FD) in the features of the data's own classifier, without them the sliced W_2 of the
    entries. Images of an image set are `mmdflow.recipe.data.JUDGED` at most, always the same.

    Args:
        data: name of the data set.
    """

    def __init__(self, data: str) -> None:
        dataset = judged_data(DataSpec(data))
        self.data, self._test, self._train = data, dataset.test, eight_bits(dataset.train)
        self._classifier = classifier_of(dataset)
        if self._classifier is None:
            self.unit, self.name = f"{data}, sliced W_2", "sliced W_2 of the entries"
        else:
            self._features = self._classifier.features(self._train)
            self.unit, self.name = f"{data}, FD", self._classifier.name

    def __call__(self, samples: Tensor) -> float:
        """Return the distance of samples."""
        x = eight_bits(samples.cpu())
        if self._classifier is None:
            return sliced_w2(x, self._train, generator=torch.Generator().manual_seed(0))
        return frechet_distance(self._classifier.features(x), self._features)

    def held_out(self, count: int) -> float:
        """Return the distance of as many held-out images, where there are so many."""
        return self(self._test[:count])


class FeatureJudge(DistanceJudge):
    """The Frechet distance in the features of a network: FID, with the standard Inception's.

    The reference is all of the part that the data set's protocol names, the training images where there is none; held-out
    images are those of its other part.

    Args:
        data: name of the data set.
        features: the name of the extractor, such as "inception".
        extractor: the features.
        progress: show bars.
    """

    def __init__(self, data: str, features: str, extractor: FeatureExtractor, *, progress: bool = False) -> None:
        rule = next((rule for rule in PROTOCOLS.values() if rule.data == data), None)
        split = "train" if rule is None else rule.split
        reference = open_images(data, split)
        self.data, self._extractor = data, extractor
        self._other = other_part(data, split, reference)
        self._moments = ReferenceStatistics.of(reference, extractor, progress=progress).moments
        self.fid = features.partition(":")[0] == "inception"
        self.unit = f"{data}, FID" if self.fid else f"{data}, FD in {features}"
        self.name = f"{extractor.name}, against {len(reference)} images: {reference.source}"
        self.num_samples = JUDGED if rule is None else rule.num_samples

    def __call__(self, samples: Tensor) -> float:
        """Return the distance of samples."""
        return self._distance(as_images(samples.clamp(-1, 1), f"samples of {self.data}"))

    def held_out(self, count: int) -> float:
        """Return the distance of as many images of the other part, drawn once and for all; nan where there is none."""
        if self._other is None:
            return math.nan
        rows = torch.randperm(len(self._other), generator=torch.Generator().manual_seed(0))[:count]
        return self._distance(ImageSet(self._other.pixels[rows.numpy()], source=self._other.source))

    def _distance(self, images: ImageSet) -> float:
        moments = Moments.of_batches(feature_batches(images, self._extractor, images.source))
        warn_if_deficient(images.source, moments.count, len(moments.mean))
        return frechet_distance(moments, self._moments)


def open_judge(data: str, features: str = OWN, *, progress: bool = False) -> DistanceJudge:
    """Return the judge of a data set.

    Args:
        data: its name.
        features: "own", or a name that `feature_extractor` takes.
        progress: show bars.

    Raises:
        ImportError: if the features need a package that is not installed.
        InputError: if files of the data set or weights of the features are missing, or the features are unknown.
    """
    if features == OWN:
        return DataJudge(data)
    return FeatureJudge(data, features, _extractor(features), progress=progress)


def open_judges(
    data: Sequence[str], features: str = OWN, *, progress: bool = False
) -> tuple[dict[str, DistanceJudge], str]:
    """Return the judges of data sets whose files are there, and a sentence that names the others; empty if there are none.

    Raises:
        ImportError: if the features need a package that is not installed.
        InputError: if the files of all data sets are missing, or the weights of the features; if those are unknown.
    """
    extractor = None if features == OWN else _extractor(features)
    judges: dict[str, DistanceJudge] = {}
    missing: dict[str, str] = {}
    for name in data:
        try:
            judges[name] = (
                DataJudge(name) if extractor is None else FeatureJudge(name, features, extractor, progress=progress)
            )
        except InputError as error:
            missing[name] = str(error)
    if not judges:
        raise InputError("; ".join(missing.values()))
    for name, reason in missing.items():
        log.warning("left out: %s: %s", name, reason)  # before hours of training, not after them
    return judges, f" Left out, their files are missing: {', '.join(missing)}." if missing else ""


def _extractor(features: str) -> FeatureExtractor:
    """Return the extractor, on a GPU where there is one; its errors name the alternative."""
    try:
        return feature_extractor(features, "cuda" if torch.cuda.is_available() else "cpu")
    except (ImportError, InputError) as error:
        raise type(error)(f"{error}; --features={OWN} judges by the data's own measure, which is not FID") from error
