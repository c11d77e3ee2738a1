import mmdflow.methods.registry

from .bregman import BREGMAN as BREGMAN
from .bregman import DIVERGENCES as DIVERGENCES
from .bregman import Bregman as Bregman
from .flow import estimate as estimate
from .flow import ratio_step as ratio_step
from .loss import DensityRatioLoss as DensityRatioLoss
from .loss import RatioTerms as RatioTerms
from .pipeline import DensityRatioPipeline as DensityRatioPipeline
from .prior import PRIORS as PRIORS
from .prior import GaussianPrior as GaussianPrior
from .settings import DensityRatioLossSettings as DensityRatioLossSettings
from .settings import RatioFlow as RatioFlow

METHODS: tuple[mmdflow.methods.registry.Method, ...]
