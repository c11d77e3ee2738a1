"""The flow of particles down f'(r) of an estimated density ratio (Heng et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import normal_like
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.gradients import gradient
from mmdflow.methods.density_ratio.bregman import DIVERGENCES


def estimate(network: FeatureNetwork, x: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
    """Return the network's d at events: log r, or r; what it has for noise levels is given t = 0."""
    return network(x, x.new_zeros(len(x)))[:, 0]


@dataclass(frozen=True)
class RatioFlow:
    r"""x_{k+1} = x_k - eta grad f'(r(x_k)) + nu xi_k, k = 0, ..., K - 1 (Heng et al. 2023, with the ratio held fixed).

    It is the Euler step of the Wasserstein gradient flow of the f-divergence from the target, entropy-regularised by the noise.

    Attributes:
        num_steps: K.
        step_size: eta.
        noise: nu, the standard deviation of a step's noise.
        divergence: one of kl (f' = log r), js, logd and pearson.
        sampler: flow; there is one.
    """

    num_steps: int
    step_size: float
    noise: float = 0.0
    divergence: str = "kl"
    sampler: str = "flow"

    def __post_init__(self) -> None:
        """Check the settings."""
        _checks.count("num_steps", self.num_steps)
        _checks.positive("step_size", self.step_size)
        _checks.non_negative("noise", self.noise)
        _checks.choice("divergence", self.divergence, DIVERGENCES)
        _checks.choice("sampler", self.sampler, ("flow",))

    def step(
        self, network: FeatureNetwork, x: Float[Tensor, "n *event"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n *event"]:
        """Return the particles after one step; no gradient goes back."""
        descended = DIVERGENCES[self.divergence]
        moved = x - self.step_size * gradient(lambda z: descended(estimate(network, z)), x)
        return moved + self.noise * normal_like(x, generator) if self.noise else moved

    def steps(
        self, network: FeatureNetwork, x: Float[Tensor, "n *event"], generator: torch.Generator | None = None
    ) -> Iterator[Float[Tensor, "n *event"]]:
        """Yield the particles after every step, from the source."""
        for _ in range(self.num_steps):
            x = self.step(network, x, generator)
            yield x
