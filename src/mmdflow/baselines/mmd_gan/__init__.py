"""MMD-GAN (Li et al. 2017; Binkowski et al. 2018), and MMD-GAN-Flow, the flow down its critic (DMMD paper, section 7)."""

from mmdflow.baselines.mmd_gan.critic import CriticMMD, features_of, references_of
from mmdflow.baselines.mmd_gan.loss import MMDGANLoss, MMDGANTerms, generate, player
from mmdflow.baselines.mmd_gan.pipeline import SAMPLERS, MMDGANDefaults, MMDGANPipeline

__all__ = [
    "SAMPLERS",
    "CriticMMD",
    "MMDGANDefaults",
    "MMDGANLoss",
    "MMDGANPipeline",
    "MMDGANTerms",
    "features_of",
    "generate",
    "player",
    "references_of",
]
