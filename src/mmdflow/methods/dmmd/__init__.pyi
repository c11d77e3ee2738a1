import mmdflow.methods.registry

from .conditions import Known as Known
from .loss import OBJECTIVES as OBJECTIVES
from .loss import PENALTY_POINTS as PENALTY_POINTS
from .loss import DMMDLoss as DMMDLoss
from .monitor import Recorder as Recorder
from .pipeline import DMMDOutput as DMMDOutput
from .pipeline import DMMDPipeline as DMMDPipeline
from .sampler import SAMPLERS as SAMPLERS
from .sampler import distance_steps as distance_steps
from .sampler import noise_levels as noise_levels
from .sampler import sample as sample
from .settings import NAMES as NAMES
from .settings import SamplerDefaults as SamplerDefaults
from .targets.base import check_classes as check_classes
from .targets.means import TargetMeans as TargetMeans
from .targets.means import target_means as target_means
from .targets.samples import TargetSamples as TargetSamples
from .targets.witness import TargetWitness as TargetWitness
from .terms import LossTerms as LossTerms

METHODS: tuple[mmdflow.methods.registry.Method, ...]
