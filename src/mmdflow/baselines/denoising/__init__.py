"""Denoisers: DDPM (Ho et al. 2020) and flow matching (Lipman et al. 2023; Liu et al. 2023)."""

from mmdflow.baselines.denoising.loss import PREDICTIONS, DenoisingLoss, DenoisingTerms
from mmdflow.baselines.denoising.pipeline import DenoisingDefaults, DenoisingPipeline
from mmdflow.baselines.denoising.samplers import NUM_STEPS, diffusion_scheduler, sample_diffusion, sample_ode

__all__ = [
    "NUM_STEPS",
    "PREDICTIONS",
    "DenoisingDefaults",
    "DenoisingLoss",
    "DenoisingPipeline",
    "DenoisingTerms",
    "diffusion_scheduler",
    "sample_diffusion",
    "sample_ode",
]
