"""DMMD: Deep MMD gradient flow without adversarial training (Galashov, de Bortoli, Gretton, ICLR 2025)."""

from mmdflow.dmmd.loss import OBJECTIVES, PENALTY_POINTS, DMMDLoss
from mmdflow.dmmd.means import TargetMeans, target_means
from mmdflow.dmmd.pipeline import DMMDOutput, DMMDPipeline, SamplerDefaults
from mmdflow.dmmd.sampler import SAMPLERS, distance_steps, noise_levels, sample
from mmdflow.dmmd.terms import LossTerms

__all__ = [
    "OBJECTIVES",
    "PENALTY_POINTS",
    "SAMPLERS",
    "DMMDLoss",
    "DMMDOutput",
    "DMMDPipeline",
    "LossTerms",
    "SamplerDefaults",
    "TargetMeans",
    "distance_steps",
    "noise_levels",
    "sample",
    "target_means",
]
