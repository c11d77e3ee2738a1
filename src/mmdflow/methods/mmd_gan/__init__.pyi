import mmdflow.methods.registry

from .critic import CriticMMD as CriticMMD
from .critic import features_of as features_of
from .critic import references_of as references_of
from .loss import MMDGANLoss as MMDGANLoss
from .loss import MMDGANTerms as MMDGANTerms
from .loss import generate as generate
from .loss import player as player
from .pipeline import SAMPLERS as SAMPLERS
from .pipeline import MMDGANDefaults as MMDGANDefaults
from .pipeline import MMDGANPipeline as MMDGANPipeline

METHODS: tuple[mmdflow.methods.registry.Method, ...]
