import mmdflow.methods.registry

from .flow import OBJECTIVES as OBJECTIVES
from .flow import Objective as Objective
from .flow import discriminator_step as discriminator_step
from .flow import levels as levels
from .loss import DiscriminatorFlowLoss as DiscriminatorFlowLoss
from .loss import DiscriminatorTerms as DiscriminatorTerms
from .pipeline import DiscriminatorFlowPipeline as DiscriminatorFlowPipeline
from .settings import DiscriminatorFlow as DiscriminatorFlow
from .settings import DiscriminatorFlowLossSettings as DiscriminatorFlowLossSettings

METHODS: tuple[mmdflow.methods.registry.Method, ...]
