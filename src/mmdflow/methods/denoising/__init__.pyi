import mmdflow.methods.registry

from .loss import DenoisingLoss as DenoisingLoss
from .loss import DenoisingTerms as DenoisingTerms
from .pipeline import DenoisingPipeline as DenoisingPipeline
from .samplers import diffusion_scheduler as diffusion_scheduler
from .samplers import diffusion_states as diffusion_states
from .samplers import ode_states as ode_states
from .settings import NUM_STEPS as NUM_STEPS
from .settings import PREDICTIONS as PREDICTIONS
from .settings import DDPMLossSettings as DDPMLossSettings
from .settings import DDPMSettings as DDPMSettings
from .settings import DenoisingSettings as DenoisingSettings
from .settings import FlowMatchingLossSettings as FlowMatchingLossSettings
from .settings import FlowMatchingSettings as FlowMatchingSettings

METHODS: tuple[mmdflow.methods.registry.Method, ...]
