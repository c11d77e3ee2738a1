import mmdflow.methods.registry

from .bregman import BREGMAN as BREGMAN, DIVERGENCES as DIVERGENCES, Bregman as Bregman
from .flow import estimate as estimate, ratio_step as ratio_step
from .loss import DensityRatioLoss as DensityRatioLoss, RatioTerms as RatioTerms
from .pipeline import DensityRatioPipeline as DensityRatioPipeline
from .prior import PRIORS as PRIORS, GaussianPrior as GaussianPrior
from .settings import DensityRatioLossSettings as DensityRatioLossSettings, RatioFlow as RatioFlow

METHODS: tuple[mmdflow.methods.registry.Method, ...]
