import mmdflow.methods.registry

from .chain import Source as Source, advance as advance, enlarge as enlarge
from .loss import SlicedGeneratorLoss as SlicedGeneratorLoss, SlicedGeneratorTerms as SlicedGeneratorTerms
from .pipeline import (
    SlicedGeneratorDefaults as SlicedGeneratorDefaults,
    SlicedGeneratorPipeline as SlicedGeneratorPipeline,
)
from .simulation import PatchScales as PatchScales, Simulation as Simulation

METHODS: tuple[mmdflow.methods.registry.Method, ...]
