import mmdflow.methods.registry

from .chain import Source as Source, advance as advance, enlarge as enlarge
from .loss import SlicedGeneratorLoss as SlicedGeneratorLoss, SlicedGeneratorTerms as SlicedGeneratorTerms
from .pipeline import SlicedGeneratorPipeline as SlicedGeneratorPipeline
from .settings import (
    Simulation as Simulation,
    SlicedGeneratorLossSettings as SlicedGeneratorLossSettings,
    SlicedGeneratorSettings as SlicedGeneratorSettings,
)
from .simulation import PatchScales as PatchScales, simulate as simulate, sliced_divergence as sliced_divergence

METHODS: tuple[mmdflow.methods.registry.Method, ...]
