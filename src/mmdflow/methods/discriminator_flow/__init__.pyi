import mmdflow.methods.registry

from .flow import OBJECTIVES as OBJECTIVES
from .flow import DiscriminatorFlow as DiscriminatorFlow
from .flow import Objective as Objective
from .loss import TRAJECTORIES as TRAJECTORIES
from .loss import DiscriminatorFlowLoss as DiscriminatorFlowLoss
from .loss import DiscriminatorTerms as DiscriminatorTerms
from .pipeline import DiscriminatorFlowPipeline as DiscriminatorFlowPipeline

METHODS: tuple[mmdflow.methods.registry.Method, ...]
