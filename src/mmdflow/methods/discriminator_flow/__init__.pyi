import mmdflow.methods.registry

from .flow import (
    OBJECTIVES as OBJECTIVES,
    Objective as Objective,
    discriminator_step as discriminator_step,
    levels as levels,
)
from .loss import DiscriminatorFlowLoss as DiscriminatorFlowLoss, DiscriminatorTerms as DiscriminatorTerms
from .pipeline import DiscriminatorFlowPipeline as DiscriminatorFlowPipeline
from .settings import (
    DiscriminatorFlow as DiscriminatorFlow,
    DiscriminatorFlowLossSettings as DiscriminatorFlowLossSettings,
)

METHODS: tuple[mmdflow.methods.registry.Method, ...]
