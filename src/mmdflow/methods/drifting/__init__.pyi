import mmdflow.methods.registry

from .fields import BatchFields as BatchFields, LandmarkFields as LandmarkFields, cluster_centres as cluster_centres
from .generator import Generator as Generator, class_shifts as class_shifts
from .loss import DriftingLoss as DriftingLoss, DriftingTerms as DriftingTerms
from .pipeline import DriftingPipeline as DriftingPipeline
from .population import Classes as Classes, Group as Group
from .settings import (
    DriftingLossSettings as DriftingLossSettings,
    DriftingSettings as DriftingSettings,
    SpacesSettings as SpacesSettings,
)
from .spaces import (
    NoisedFeatures as NoisedFeatures,
    Pixels as Pixels,
    Space as Space,
    dmmd_spaces as dmmd_spaces,
)

METHODS: tuple[mmdflow.methods.registry.Method, ...]
