"""Divergences F(nu) between particles and a target, one file a paper."""

from mmdflow.divergences.base import Divergence
from mmdflow.divergences.mmd import MMD
from mmdflow.divergences.potential import PotentialEnergy

__all__ = ["MMD", "Divergence", "PotentialEnergy"]
