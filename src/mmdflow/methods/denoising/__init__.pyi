import mmdflow.methods.registry

from .loss import PREDICTIONS as PREDICTIONS, DenoisingLoss as DenoisingLoss, DenoisingTerms as DenoisingTerms
from .pipeline import DenoisingDefaults as DenoisingDefaults, DenoisingPipeline as DenoisingPipeline
from .samplers import (
    NUM_STEPS as NUM_STEPS,
    diffusion_scheduler as diffusion_scheduler,
    sample_diffusion as sample_diffusion,
    sample_ode as sample_ode,
)

METHODS: tuple[mmdflow.methods.registry.Method, ...]
