import mmdflow.methods.registry

from .conditions import FixedEntries as FixedEntries
from .fields import LevelField as LevelField
from .fields import PerClass as PerClass
from .loss import DMMDLoss as DMMDLoss
from .monitor import Recorder as Recorder
from .objectives import KLBound as KLBound
from .objectives import MMDObjective as MMDObjective
from .objectives import Objective as Objective
from .objectives import ReverseKLBound as ReverseKLBound
from .pairings import BatchFeatures as BatchFeatures
from .pairings import Disjoint as Disjoint
from .pairings import Paired as Paired
from .pairings import Pairing as Pairing
from .pairings import Shared as Shared
from .penalty_points import Ends as Ends
from .penalty_points import Interpolate as Interpolate
from .penalty_points import NoisedBatch as NoisedBatch
from .penalty_points import Noisy as Noisy
from .penalty_points import Path as Path
from .penalty_points import PenaltyPoints as PenaltyPoints
from .pipeline import DMMDOutput as DMMDOutput
from .pipeline import DMMDPipeline as DMMDPipeline
from .sampler import check_integrator as check_integrator
from .sampler import sample as sample
from .settings import NAMES as NAMES
from .settings import OBJECTIVES as OBJECTIVES
from .settings import PAIRINGS as PAIRINGS
from .settings import PENALTY_POINTS as PENALTY_POINTS
from .settings import SAMPLERS as SAMPLERS
from .settings import LossSettings as LossSettings
from .settings import SamplerSettings as SamplerSettings
from .targets.base import FlowKind as FlowKind
from .targets.base import Target as Target
from .targets.base import TargetLevel as TargetLevel
from .targets.base import check_classes as check_classes
from .targets.means import TargetMeans as TargetMeans
from .targets.means import target_means as target_means
from .targets.samples import TargetSamples as TargetSamples
from .targets.witness import TargetWitness as TargetWitness
from .terms import LossTerms as LossTerms
from .walk import Walk as Walk
from .walk import distance_steps as distance_steps
from .walk import noise_levels as noise_levels

METHODS: tuple[mmdflow.methods.registry.Method, ...]
