"""Measures of how good samples are, of features: the caller's, a small classifier's, or an untrained network's.

Functions of whole sets, and objects of torchmetrics (`objects`) that take samples by the batch.
"""

from typing import TYPE_CHECKING, Any

from mmdflow.metrics.classifier import Classifier, ConvolutionalClassifier, ResidualClassifier, train_classifier
from mmdflow.metrics.frechet import frechet_distance
from mmdflow.metrics.manifold import ManifoldScores, manifold_scores
from mmdflow.metrics.memorisation import Memorisation, memorisation
from mmdflow.metrics.moments import Moments
from mmdflow.metrics.neighbours import nearest_distances
from mmdflow.metrics.random_features import RandomFeatures
from mmdflow.metrics.scores import Estimate, frechet_at_infinity, frechet_interval, inception_score, kernel_distance
from mmdflow.metrics.sliced import sliced_w2
from mmdflow.metrics.two_sample import StopWhenIndistinguishable, gaussian_scales, mmd_test

if TYPE_CHECKING:
    from mmdflow.metrics.objects import EnergyDistance, FrechetDistance, KernelDistance, MMDMetric

__all__ = [
    "Classifier",
    "ConvolutionalClassifier",
    "EnergyDistance",
    "Estimate",
    "FrechetDistance",
    "KernelDistance",
    "MMDMetric",
    "ManifoldScores",
    "Memorisation",
    "Moments",
    "RandomFeatures",
    "ResidualClassifier",
    "StopWhenIndistinguishable",
    "frechet_at_infinity",
    "frechet_distance",
    "frechet_interval",
    "gaussian_scales",
    "inception_score",
    "kernel_distance",
    "manifold_scores",
    "memorisation",
    "mmd_test",
    "nearest_distances",
    "sliced_w2",
    "train_classifier",
]

_OBJECTS = ("EnergyDistance", "FrechetDistance", "KernelDistance", "MMDMetric")


def __getattr__(name: str) -> Any:
    """Return an object of torchmetrics, which is imported when the first is asked for."""
    if name in _OBJECTS:
        from mmdflow.metrics import objects

        return getattr(objects, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
