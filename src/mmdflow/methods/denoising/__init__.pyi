import mmdflow.methods.registry

from .loss import PREDICTIONS as PREDICTIONS
from .loss import DenoisingLoss as DenoisingLoss
from .loss import DenoisingTerms as DenoisingTerms
from .pipeline import DenoisingDefaults as DenoisingDefaults
from .pipeline import DenoisingPipeline as DenoisingPipeline
from .samplers import NUM_STEPS as NUM_STEPS
from .samplers import diffusion_scheduler as diffusion_scheduler
from .samplers import sample_diffusion as sample_diffusion
from .samplers import sample_ode as sample_ode

METHODS: tuple[mmdflow.methods.registry.Method, ...]
