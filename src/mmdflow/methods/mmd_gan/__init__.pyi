import mmdflow.methods.registry

from .critic import CriticMMD as CriticMMD, features_of as features_of, references_of as references_of
from .loss import MMDGANLoss as MMDGANLoss, MMDGANTerms as MMDGANTerms, generate as generate, player as player
from .pipeline import MMDGANPipeline as MMDGANPipeline
from .settings import (
    MMDGANLossSettings as MMDGANLossSettings,
    MMDGANSamplingSettings as MMDGANSamplingSettings,
    MMDGANSettings as MMDGANSettings,
)

METHODS: tuple[mmdflow.methods.registry.Method, ...]
