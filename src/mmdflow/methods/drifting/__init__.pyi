import mmdflow.methods.registry

from .alternating import AlternatingLoss as AlternatingLoss, AlternatingTerms as AlternatingTerms
from .distillation import DistillationLoss as DistillationLoss
from .fields import BatchFields as BatchFields, LandmarkFields as LandmarkFields, cluster_centres as cluster_centres
from .generator import Generator as Generator, class_shifts as class_shifts, start_at as start_at
from .loss import DriftingLoss as DriftingLoss, DriftingTerms as DriftingTerms
from .pipeline import DriftingPipeline as DriftingPipeline
from .population import Classes as Classes, Group as Group
from .settings import (
    DistillationSettings as DistillationSettings,
    DriftingLossSettings as DriftingLossSettings,
    DriftingSettings as DriftingSettings,
    SpacesSettings as SpacesSettings,
)
from .spaces import (
    NoisedFeatures as NoisedFeatures,
    Patches as Patches,
    Pixels as Pixels,
    Space as Space,
    Texture as Texture,
    dmmd_spaces as dmmd_spaces,
    untrained as untrained,
)

METHODS: tuple[mmdflow.methods.registry.Method, ...]
