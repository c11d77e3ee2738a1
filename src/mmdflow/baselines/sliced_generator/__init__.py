"""Generative sliced MMD flows with Riesz kernels, GS-MMD-RK (Hertrich, Wald, Altekrueger, Hagemann 2024)."""

from mmdflow.baselines.sliced_generator.chain import Source, advance, enlarge
from mmdflow.baselines.sliced_generator.loss import SlicedGeneratorLoss, SlicedGeneratorTerms
from mmdflow.baselines.sliced_generator.pipeline import SlicedGeneratorDefaults, SlicedGeneratorPipeline
from mmdflow.baselines.sliced_generator.simulation import PatchScales, Simulation

__all__ = [
    "PatchScales",
    "Simulation",
    "SlicedGeneratorDefaults",
    "SlicedGeneratorLoss",
    "SlicedGeneratorPipeline",
    "SlicedGeneratorTerms",
    "Source",
    "advance",
    "enlarge",
]
