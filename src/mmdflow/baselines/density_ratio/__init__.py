"""Flows down a learned density ratio: DGGF-KL (Heng, Ansari, Soh 2023), later named flow-guided density ratio learning."""

from mmdflow.baselines.density_ratio.bregman import BREGMAN, DIVERGENCES, Bregman
from mmdflow.baselines.density_ratio.flow import RatioFlow, estimate
from mmdflow.baselines.density_ratio.loss import TRAJECTORIES, DensityRatioLoss, RatioTerms
from mmdflow.baselines.density_ratio.pipeline import DensityRatioPipeline
from mmdflow.baselines.density_ratio.prior import PRIORS, GaussianPrior

__all__ = [
    "BREGMAN",
    "DIVERGENCES",
    "PRIORS",
    "TRAJECTORIES",
    "Bregman",
    "DensityRatioLoss",
    "DensityRatioPipeline",
    "GaussianPrior",
    "RatioFlow",
    "RatioTerms",
    "estimate",
]
