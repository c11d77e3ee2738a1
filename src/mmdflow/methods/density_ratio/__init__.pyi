import mmdflow.methods.registry

from .bregman import BREGMAN as BREGMAN, DIVERGENCES as DIVERGENCES, Bregman as Bregman
from .flow import RatioFlow as RatioFlow, estimate as estimate
from .loss import TRAJECTORIES as TRAJECTORIES, DensityRatioLoss as DensityRatioLoss, RatioTerms as RatioTerms
from .pipeline import DensityRatioPipeline as DensityRatioPipeline
from .prior import PRIORS as PRIORS, GaussianPrior as GaussianPrior

METHODS: tuple[mmdflow.methods.registry.Method, ...]
