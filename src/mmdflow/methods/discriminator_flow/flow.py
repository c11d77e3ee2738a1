"""The flow of particles down a time-conditioned discriminator (Franceschi et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import along, normal_like
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.gradients import gradient

Pointwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """What the discriminator minimises and what particles descend, of its value d, which is high on particles.

    Attributes:
        on_particles: its loss on a particle.
        on_data: its loss on a sample of the target.
        descended: the particle's own loss.
    """

    on_particles: Pointwise
    on_data: Pointwise
    descended: Pointwise


def _same(d: Tensor) -> Tensor:
    return d


#: Objectives by the name that recipes and saved pipelines use.
OBJECTIVES = {
    "ipm": Objective(lambda d: -d, _same, _same),
    "vanilla": Objective(lambda d: F.softplus(-d), F.softplus, F.softplus),
    "hinge": Objective(lambda d: F.relu(1 - d), lambda d: F.relu(1 + d), _same),
}


@dataclass(frozen=True)
class DiscriminatorFlow:
    r"""x_{i+1} = x_i - (eta / n) grad_x l(D(x_i, t_i)) + s n^{-1/2} xi_i, i = 0, ..., n - 1, t_i = 1 - i / n.

    The last step has no noise.

    Attributes:
        num_steps: n.
        step_size: eta, of the whole flow.
        noise: s, the standard deviation that the noise of the whole flow adds up to.
        objective: whose l particles descend, one of `OBJECTIVES`.
        sampler: flow; there is one.
    """

    num_steps: int
    step_size: float
    noise: float = 0.0
    objective: str = "ipm"
    sampler: str = "flow"

    def __post_init__(self) -> None:
        """Check the settings."""
        _checks.count("num_steps", self.num_steps)
        _checks.positive("step_size", self.step_size)
        _checks.non_negative("noise", self.noise)
        _checks.choice("objective", self.objective, OBJECTIVES)
        _checks.choice("sampler", self.sampler, ("flow",))

    def levels(self, index: Int[Tensor, " n"], like: Tensor) -> Float[Tensor, " n"]:
        """Return the noise levels t of particles about to make their step number `index`."""
        return 1 - index.to(like) / self.num_steps

    def step(
        self,
        network: FeatureNetwork,
        x: Float[Tensor, "n *event"],
        index: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n *event"]:
        """Return the particles after one step, each particle's own number of which is `index`; no gradient goes back."""
        t, descended = self.levels(index, x), OBJECTIVES[self.objective].descended
        moved = x - self.step_size / self.num_steps * gradient(lambda z: descended(network(z, t)[:, 0]), x)
        if self.noise:
            spread = self.noise / math.sqrt(self.num_steps) * (index < self.num_steps - 1).to(x)
            moved = moved + along(spread, x) * normal_like(x, generator)
        return moved

    def steps(
        self, network: FeatureNetwork, x: Float[Tensor, "n *event"], generator: torch.Generator | None = None
    ) -> Iterator[Float[Tensor, "n *event"]]:
        """Yield the particles after every step, from the source."""
        for i in range(self.num_steps):
            x = self.step(network, x, torch.full((len(x),), i, device=x.device), generator)
            yield x
