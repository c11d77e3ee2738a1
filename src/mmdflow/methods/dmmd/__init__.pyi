import mmdflow.methods.registry

from .conditions import Known as Known
from .loss import OBJECTIVES as OBJECTIVES, PENALTY_POINTS as PENALTY_POINTS, DMMDLoss as DMMDLoss
from .monitor import Recorder as Recorder
from .pipeline import DMMDOutput as DMMDOutput, DMMDPipeline as DMMDPipeline
from .sampler import (
    SAMPLERS as SAMPLERS,
    distance_steps as distance_steps,
    noise_levels as noise_levels,
    sample as sample,
)
from .settings import NAMES as NAMES, SamplerDefaults as SamplerDefaults
from .targets.base import check_classes as check_classes
from .targets.means import TargetMeans as TargetMeans, target_means as target_means
from .targets.samples import TargetSamples as TargetSamples
from .targets.witness import TargetWitness as TargetWitness
from .terms import LossTerms as LossTerms

METHODS: tuple[mmdflow.methods.registry.Method, ...]
