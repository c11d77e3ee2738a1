import mmdflow.methods.registry

from .loss import DenoisingLoss as DenoisingLoss, DenoisingTerms as DenoisingTerms
from .pipeline import DenoisingPipeline as DenoisingPipeline
from .samplers import (
    diffusion_scheduler as diffusion_scheduler,
    diffusion_states as diffusion_states,
    ode_states as ode_states,
)
from .settings import (
    NUM_STEPS as NUM_STEPS,
    PREDICTIONS as PREDICTIONS,
    DDPMLossSettings as DDPMLossSettings,
    DDPMSettings as DDPMSettings,
    DenoisingSettings as DenoisingSettings,
    FlowMatchingLossSettings as FlowMatchingLossSettings,
    FlowMatchingSettings as FlowMatchingSettings,
)

METHODS: tuple[mmdflow.methods.registry.Method, ...]
