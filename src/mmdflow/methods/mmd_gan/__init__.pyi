import mmdflow.methods.registry

from .critic import CriticMMD as CriticMMD
from .critic import features_of as features_of
from .critic import references_of as references_of
from .loss import MMDGANLoss as MMDGANLoss
from .loss import MMDGANTerms as MMDGANTerms
from .loss import generate as generate
from .loss import player as player
from .pipeline import MMDGANPipeline as MMDGANPipeline
from .settings import MMDGANLossSettings as MMDGANLossSettings
from .settings import MMDGANSamplingSettings as MMDGANSamplingSettings
from .settings import MMDGANSettings as MMDGANSettings

METHODS: tuple[mmdflow.methods.registry.Method, ...]
