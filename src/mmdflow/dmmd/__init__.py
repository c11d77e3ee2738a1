"""DMMD: Deep MMD gradient flow without adversarial training (Galashov, de Bortoli, Gretton, ICLR 2025)."""

from mmdflow.dmmd.conditions import Known
from mmdflow.dmmd.learned import TargetWitness
from mmdflow.dmmd.levels import check_classes
from mmdflow.dmmd.loss import OBJECTIVES, PENALTY_POINTS, DMMDLoss
from mmdflow.dmmd.means import TargetMeans, target_means
from mmdflow.dmmd.monitor import Recorder
from mmdflow.dmmd.pipeline import DMMDOutput, DMMDPipeline
from mmdflow.dmmd.references import TargetSamples
from mmdflow.dmmd.sampler import SAMPLERS, distance_steps, noise_levels, sample
from mmdflow.dmmd.settings import INTEGRATORS, NAMES, SamplerDefaults
from mmdflow.dmmd.terms import LossTerms
from mmdflow.kernels import BASES, base_config, base_kernel

__all__ = [
    "BASES",
    "INTEGRATORS",
    "NAMES",
    "OBJECTIVES",
    "PENALTY_POINTS",
    "SAMPLERS",
    "DMMDLoss",
    "DMMDOutput",
    "DMMDPipeline",
    "Known",
    "LossTerms",
    "Recorder",
    "SamplerDefaults",
    "TargetMeans",
    "TargetSamples",
    "TargetWitness",
    "base_config",
    "base_kernel",
    "check_classes",
    "distance_steps",
    "noise_levels",
    "sample",
    "target_means",
]
