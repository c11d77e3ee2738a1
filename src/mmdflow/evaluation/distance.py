"""The one distance that tables rank by: a data set's own measure, or the Frechet distance in a network's features."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import eight_bits
from mmdflow.data import ImageSet
from mmdflow.errors import InputError
from mmdflow.evaluation.data_judges import KINDS, REPORTS, VALIDATION, JudgeKind, kind_of, needs_images
from mmdflow.evaluation.protocols import PROTOCOLS, as_images, open_images, other_part
from mmdflow.evaluation.reference import ReferenceStatistics, feature_batches
from mmdflow.metrics import Classifier, Moments, frechet_distance, sliced_w2
from mmdflow.metrics.extractors import FeatureExtractor, feature_extractor
from mmdflow.metrics.frechet import warn_if_deficient
from mmdflow.recipe import DataSpec
from mmdflow.recipe.data import JUDGED, judged_data

log = logging.getLogger(__name__)

#: The features that stand for a data set's own measure.
OWN = VALIDATION.features


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
    """The distance to training images by a judge that is the data's own, which is not FID.

    It is the Frechet distance (FD) in the features of the judge; of the validation judge, where there are no labels, the sliced
    W_2 of the entries. Images of an image set are `mmdflow.recipe.data.JUDGED` at most, always the same.

    Args:
        data: name of the data set.
        kind: which of its judges.

    Raises:
        InputError: if the data set holds no images, or lacks the labels that a report judge needs.
    """

    def __init__(self, data: str, kind: JudgeKind = VALIDATION) -> None:
        dataset, asked = judged_data(DataSpec(data)), f"features = {kind.features!r} with data = {data!r}"
        if lack := needs_images(dataset):
            raise InputError(f"{asked}: {lack}")
        self.data, self._test = data, dataset.test
        if kind is VALIDATION and VALIDATION.lack(dataset) is not None:
            self._extractor, self._train = None, eight_bits(dataset.train)
            self.unit, self.name = f"{data}, sliced W_2", "sliced W_2 of the entries"
            return
        self._extractor = kind.open(dataset, asked)
        images = as_images(dataset.train, f"{dataset.source} (train)")
        self._moments = ReferenceStatistics.of(images, self._extractor).moments
        self.unit = f"{data}, FD" if kind is VALIDATION else f"{data}, FD in {kind.features}"
        self.name = self._extractor.name

    @property
    def extractor(self) -> FeatureExtractor | None:
        """The features; None where the entries are judged."""
        return self._extractor

    def __call__(self, samples: Tensor) -> float:
        """Return the distance of samples."""
        x = eight_bits(samples.cpu())
        if self._extractor is None:
            return sliced_w2(x, self._train, generator=torch.Generator().manual_seed(0))
        features = self._extractor.features(x)
        warn_if_deficient(f"samples of {self.data}", *features.shape)
        return frechet_distance(features, self._moments)

    def held_out(self, count: int) -> float:
        """Return the distance of as many held-out images, where there are so many: a set may be ordered by class."""
        rows = torch.randperm(len(self._test), generator=torch.Generator().manual_seed(0))[:count]
        return self(self._test[rows])


@dataclass(frozen=True)
class OwnJudge:
    """What is told of a judge of a data set.

    Attributes:
        features: its name, as `--features` takes it.
        role: validation or report.
        figure: key of its distance in reports.
        name: what it is, with a hash of the weights.
        accuracy: of a classifier on held-out images; None for others.
        held_out: its distance of held-out images.
    """

    features: str
    role: str
    figure: str
    name: str
    accuracy: float | None
    held_out: float


@dataclass(frozen=True)
class OwnJudges:
    """The judges of a data set.

    Attributes:
        data: its name.
        num_samples: held-out images that were judged.
        num_train: training images that they were compared with.
        judges: those that it has.
        lacking: what it lacks for the others, by their names.
    """

    data: str
    num_samples: int
    num_train: int
    judges: tuple[OwnJudge, ...]
    lacking: dict[str, str]


def own_judges(data: str, num_samples: int | None = None) -> OwnJudges:
    """Return the judges that a data set has of its own, trained and cached, and their distances of held-out images.

    Args:
        data: its name.
        num_samples: held-out images judged; all when None.

    Raises:
        InputError: if files of the data set are missing, it holds no images, or there are not so many held-out images.
    """
    dataset = judged_data(DataSpec(data))
    most = len(dataset.test)
    count = most if num_samples is None else _checks.count("num_samples", num_samples, 2)
    if count > most:
        raise InputError(f"num_samples = {count}: must be at most {most}, the held-out images of {data}")
    lacking = {kind.features: lack for kind in REPORTS if (lack := kind.lack(dataset))}
    judges = []
    for kind in KINDS.values():
        if kind.features not in lacking:
            judge = DataJudge(data, kind)
            accuracy = judge.extractor.accuracy if isinstance(judge.extractor, Classifier) else None
            figure = kind.figure if judge.extractor is not None else "sliced_w2"
            row = OwnJudge(kind.features, kind.role, figure, judge.name, accuracy, judge.held_out(count))
            judges.append(row)
    return OwnJudges(data, count, len(dataset.train), tuple(judges), lacking)


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
        features: "own", the validation judge; "report" or "random", the report judges; or a name that `feature_extractor` takes.
        progress: show bars.

    Raises:
        ImportError: if the features need a package that is not installed.
        InputError: if files of the data set or weights of the features are missing, the data set lacks what a report judge needs,
            or the features are unknown.
    """
    return _opener(features, progress)(data)


def open_judges(
    data: Sequence[str], features: str = OWN, *, progress: bool = False
) -> tuple[dict[str, DistanceJudge], str]:
    """Return the judges of data sets whose files are there, and a sentence that names the others; empty if there are none.

    Raises:
        ImportError: if the features need a package that is not installed.
        InputError: if the files of all data sets are missing, or the weights of the features; if those are unknown.
    """
    opener = _opener(features, progress)
    judges: dict[str, DistanceJudge] = {}
    missing: dict[str, str] = {}
    for name in data:
        try:
            judges[name] = opener(name)
        except InputError as error:
            missing[name] = str(error)
    if not judges:
        raise InputError("; ".join(missing.values()))
    for name, reason in missing.items():
        log.warning("left out: %s: %s", name, reason)  # before hours of training, not after them
    return judges, f" Left out, their files are missing: {', '.join(missing)}." if missing else ""


def _opener(features: str, progress: bool) -> Callable[[str], DistanceJudge]:
    """Return what opens the judge of a data set by its name; networks that are no data set's own are read once, now."""
    kind = kind_of(features)
    if kind is not None:
        return partial(DataJudge, kind=kind)
    return partial(FeatureJudge, features=features, extractor=_extractor(features), progress=progress)


def _extractor(features: str) -> FeatureExtractor:
    """Return the extractor, on a GPU where there is one; its errors name the alternative."""
    try:
        return feature_extractor(features, "cuda" if torch.cuda.is_available() else "cpu")
    except (ImportError, InputError) as error:
        raise type(error)(f"{error}; --features={OWN} judges by the data's own measure, which is not FID") from error
