"""The judges that a data set has of its own: one that settings may be chosen by, and two of other architectures to report by.

What is chosen by a judge fits that judge: a figure by one that had no part in choosing is the one to believe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from mmdflow import _checks
from mmdflow._tensors import eight_bits
from mmdflow.data import DataSet
from mmdflow.errors import InputError
from mmdflow.metrics import (
    Classifier,
    ConvolutionalClassifier,
    RandomFeatures,
    ResidualClassifier,
    train_classifier,
)
from mmdflow.metrics.extractors import NETWORKS, FeatureExtractor

#: Images at once.
_BLOCK = 512


@dataclass(frozen=True)
class JudgeKind(ABC):
    """A judge that any fitting data set has.

    Attributes:
        features: its name, as `--features` takes it.
        figure: key of its distance in reports, as `mmdflow.evaluation.figures` has it.
        role: validation or report.
    """

    features: str
    figure: str
    role: str

    @abstractmethod
    def lack(self, dataset: DataSet) -> str | None:
        """Return what a data set lacks for this judge, in words; None where it has all."""

    @abstractmethod
    def make(self, dataset: DataSet) -> FeatureExtractor:
        """Return the judge's features, from the cache where they were trained before."""

    def open(self, dataset: DataSet, asked: str) -> FeatureExtractor:
        """Return the judge's features.

        Args:
            dataset: whose judge it is.
            asked: how the message of an error begins, as "features = 'report' with data = 'church64'".

        Raises:
            InputError: if the data set lacks what the judge needs.
        """
        if lack := self.lack(dataset):
            raise InputError(f"{asked}: {lack}")
        return self.make(dataset)


@dataclass(frozen=True)
class ClassifierJudge(JudgeKind):
    """Features of a classifier that is trained on the data set's training images and their labels.

    Attributes:
        architecture: of the classifier.
    """

    architecture: type[Classifier]

    def lack(self, dataset: DataSet) -> str | None:
        """Return what a data set lacks for this judge, in words; None where it has all."""
        if dataset.train_labels is not None and dataset.test_labels is not None:
            return None
        return f"needs labels of training and held-out images, and there are none; {RANDOM.features!r} needs no labels"

    def make(self, dataset: DataSet) -> FeatureExtractor:
        """Return the judge's features, from the cache where they were trained before."""
        assert dataset.train_labels is not None
        assert dataset.test_labels is not None
        parts = dataset.train, dataset.train_labels, dataset.test, dataset.test_labels
        return train_classifier(*parts, kind=self.architecture)


def needs_images(dataset: DataSet) -> str | None:
    """Return that a data set holds points, in words; None where it holds images."""
    if dataset.train.ndim == 4:
        return None
    return f"needs images, and these are points {list(dataset.event_shape)}"


@dataclass(frozen=True)
class RandomJudge(JudgeKind):
    """Features of an untrained network, standardised by the training images as 8 bits hold them."""

    def lack(self, dataset: DataSet) -> str | None:
        """Return what a data set lacks for this judge, in words; None where it has all."""
        return needs_images(dataset)

    def make(self, dataset: DataSet) -> FeatureExtractor:
        """Return the judge's features."""
        return RandomFeatures.of(eight_bits(x) for x in dataset.train.split(_BLOCK))


VALIDATION = ClassifierJudge("own", "frechet_distance", "validation", ConvolutionalClassifier)
REPORT = ClassifierJudge("report", "report_distance", "report", ResidualClassifier)
RANDOM = RandomJudge("random", "random_distance", "report")
#: By their names.
KINDS: dict[str, JudgeKind] = {kind.features: kind for kind in (VALIDATION, REPORT, RANDOM)}
#: Those that no setting may be chosen by.
REPORTS: tuple[JudgeKind, ...] = (REPORT, RANDOM)
#: Earlier names.
_OLD_NAMES = {"classifier": VALIDATION.features}


def kind_of(features: str) -> JudgeKind | None:
    """Return the kind of judge that `--features` names; None for the name of a network that is not the data set's own.

    Raises:
        InputError: for an unknown name; lists them.

    Example:
        >>> kind_of("random").figure
        'random_distance'
        >>> kind_of("timm:resnet18") is None
        True
    """
    name = _OLD_NAMES.get(features, features)
    if name in KINDS:
        return KINDS[name]
    _checks.choice("features", features.partition(":")[0], (*NETWORKS, *KINDS))
    return None


def validation_features(dataset: DataSet) -> FeatureExtractor | None:
    """Return the features of the validation judge; None for a data set without labels."""
    return VALIDATION.make(dataset) if VALIDATION.lack(dataset) is None else None


def report_features(dataset: DataSet) -> dict[str, FeatureExtractor]:
    """Return the features of the report judges that a data set has, by the keys of their distances."""
    return {kind.figure: kind.make(dataset) for kind in REPORTS if kind.lack(dataset) is None}
