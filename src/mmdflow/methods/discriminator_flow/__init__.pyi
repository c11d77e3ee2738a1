import mmdflow.methods.registry

from .flow import OBJECTIVES as OBJECTIVES, DiscriminatorFlow as DiscriminatorFlow, Objective as Objective
from .loss import (
    TRAJECTORIES as TRAJECTORIES,
    DiscriminatorFlowLoss as DiscriminatorFlowLoss,
    DiscriminatorTerms as DiscriminatorTerms,
)
from .pipeline import DiscriminatorFlowPipeline as DiscriminatorFlowPipeline

METHODS: tuple[mmdflow.methods.registry.Method, ...]
