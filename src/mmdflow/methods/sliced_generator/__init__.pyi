import mmdflow.methods.registry

from .chain import Source as Source
from .chain import advance as advance
from .chain import enlarge as enlarge
from .loss import SlicedGeneratorLoss as SlicedGeneratorLoss
from .loss import SlicedGeneratorTerms as SlicedGeneratorTerms
from .pipeline import SlicedGeneratorPipeline as SlicedGeneratorPipeline
from .settings import Simulation as Simulation
from .settings import SlicedGeneratorLossSettings as SlicedGeneratorLossSettings
from .settings import SlicedGeneratorSettings as SlicedGeneratorSettings
from .simulation import PatchScales as PatchScales
from .simulation import simulate as simulate
from .simulation import sliced_divergence as sliced_divergence

METHODS: tuple[mmdflow.methods.registry.Method, ...]
