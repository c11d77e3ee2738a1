import mmdflow.methods.registry

from .chain import Source as Source
from .chain import advance as advance
from .chain import enlarge as enlarge
from .loss import SlicedGeneratorLoss as SlicedGeneratorLoss
from .loss import SlicedGeneratorTerms as SlicedGeneratorTerms
from .pipeline import SlicedGeneratorDefaults as SlicedGeneratorDefaults
from .pipeline import SlicedGeneratorPipeline as SlicedGeneratorPipeline
from .simulation import PatchScales as PatchScales
from .simulation import Simulation as Simulation

METHODS: tuple[mmdflow.methods.registry.Method, ...]
