"""The flow of particles down f'(r) of an estimated density ratio (Heng et al. 2023)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow._tensors import normal_like
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.gradients import gradient
from mmdflow.methods.density_ratio.bregman import DIVERGENCES
from mmdflow.methods.density_ratio.settings import RatioFlow


def estimate(network: FeatureNetwork, x: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
    """Return the network's d at events: log r, or r. The network's noise level is t = 0.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> estimate(MLPFeatures((2,), 1, "flat"), torch.zeros(5, 2)).shape
        torch.Size([5])
    """
    return network(x, x.new_zeros(len(x)))[:, 0]


def ratio_step(
    settings: RatioFlow,
    network: FeatureNetwork,
    x: Float[Tensor, "n *event"],
    index: Int[Tensor, " n"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n *event"]:
    """Return the particles after one step of `RatioFlow`; no gradient goes back. All steps are alike, whatever the index."""
    descended = DIVERGENCES[settings.divergence]
    moved = x - settings.step_size * gradient(lambda z: descended(estimate(network, z)), x)
    return moved + settings.noise * normal_like(x, generator) if settings.noise else moved
