"""Measures of how good samples are, of features: the caller's, a small classifier's, or an untrained network's."""

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

__all__ = [
    "Classifier",
    "ConvolutionalClassifier",
    "Estimate",
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
