import mmdflow.methods.registry

from .bregman import BREGMAN as BREGMAN
from .bregman import DIVERGENCES as DIVERGENCES
from .bregman import Bregman as Bregman
from .flow import RatioFlow as RatioFlow
from .flow import estimate as estimate
from .loss import TRAJECTORIES as TRAJECTORIES
from .loss import DensityRatioLoss as DensityRatioLoss
from .loss import RatioTerms as RatioTerms
from .pipeline import DensityRatioPipeline as DensityRatioPipeline
from .prior import PRIORS as PRIORS
from .prior import GaussianPrior as GaussianPrior

METHODS: tuple[mmdflow.methods.registry.Method, ...]
