"""Discriminator flow: particles descend a time-conditioned discriminator that learns from their ways (Franceschi et al. 2023)."""

from mmdflow.baselines.discriminator_flow.flow import OBJECTIVES, DiscriminatorFlow, Objective
from mmdflow.baselines.discriminator_flow.loss import TRAJECTORIES, DiscriminatorFlowLoss, DiscriminatorTerms
from mmdflow.baselines.discriminator_flow.pipeline import DiscriminatorFlowPipeline

__all__ = [
    "OBJECTIVES",
    "TRAJECTORIES",
    "DiscriminatorFlow",
    "DiscriminatorFlowLoss",
    "DiscriminatorFlowPipeline",
    "DiscriminatorTerms",
    "Objective",
]
