"""Divergences F(nu) between particles and a target, one file a paper."""

from mmdflow.divergences.base import Divergence
from mmdflow.divergences.drmmd import DrMMD
from mmdflow.divergences.kale import KALE
from mmdflow.divergences.mmd import MMD
from mmdflow.divergences.potential import PotentialEnergy
from mmdflow.divergences.sliced import SlicedMMD

__all__ = ["KALE", "MMD", "Divergence", "DrMMD", "PotentialEnergy", "SlicedMMD"]
