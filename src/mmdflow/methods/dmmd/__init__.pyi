import mmdflow.methods.registry

from .conditions import FixedEntries as FixedEntries
from .fields import LevelField as LevelField, PerClass as PerClass
from .loss import DMMDLoss as DMMDLoss
from .monitor import Recorder as Recorder
from .objectives import (
    KLBound as KLBound,
    MMDObjective as MMDObjective,
    Objective as Objective,
    ReverseKLBound as ReverseKLBound,
)
from .pairings import (
    BatchFeatures as BatchFeatures,
    Disjoint as Disjoint,
    Paired as Paired,
    Pairing as Pairing,
    Shared as Shared,
)
from .penalty_points import (
    Interpolate as Interpolate,
    NoisedBatch as NoisedBatch,
    Path as Path,
    PenaltyPoints as PenaltyPoints,
    Segment as Segment,
)
from .pipeline import DMMDOutput as DMMDOutput, DMMDPipeline as DMMDPipeline
from .sampler import check_integrator as check_integrator, sample as sample
from .settings import NAMES as NAMES, LossSettings as LossSettings, SamplerSettings as SamplerSettings
from .targets.base import (
    FlowKind as FlowKind,
    LevelFlow as LevelFlow,
    Target as Target,
    TargetLevel as TargetLevel,
    check_classes as check_classes,
)
from .targets.means import TargetMeans as TargetMeans, target_means as target_means
from .targets.samples import TargetSamples as TargetSamples
from .targets.witness import TargetWitness as TargetWitness
from .terms import LossTerms as LossTerms
from .walk import Walk as Walk, distance_steps as distance_steps, noise_levels as noise_levels

METHODS: tuple[mmdflow.methods.registry.Method, ...]
