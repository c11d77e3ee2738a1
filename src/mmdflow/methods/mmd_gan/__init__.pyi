import mmdflow.methods.registry

from .critic import CriticMMD as CriticMMD, features_of as features_of, references_of as references_of
from .loss import MMDGANLoss as MMDGANLoss, MMDGANTerms as MMDGANTerms, generate as generate, player as player
from .pipeline import SAMPLERS as SAMPLERS, MMDGANDefaults as MMDGANDefaults, MMDGANPipeline as MMDGANPipeline

METHODS: tuple[mmdflow.methods.registry.Method, ...]
