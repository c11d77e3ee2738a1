"""Divergences F(nu) between particles and a target, one file a paper."""

from mmdflow.divergences.adaptive import AdaptiveMMD
from mmdflow.divergences.base import Divergence, VelocityField
from mmdflow.divergences.drmmd import AdaptiveRegularization, DrMMD
from mmdflow.divergences.f_divergence import FDivergence
from mmdflow.divergences.kale import KALE
from mmdflow.divergences.mmd import MMD
from mmdflow.divergences.potential import PotentialEnergy
from mmdflow.divergences.sliced import SlicedMMD
from mmdflow.divergences.sobolev import SobolevDescent

__all__ = [
    "KALE",
    "MMD",
    "AdaptiveMMD",
    "AdaptiveRegularization",
    "Divergence",
    "DrMMD",
    "FDivergence",
    "PotentialEnergy",
    "SlicedMMD",
    "SobolevDescent",
    "VelocityField",
]
