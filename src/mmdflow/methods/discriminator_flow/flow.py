"""The flow of particles down a time-conditioned discriminator (Franceschi et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow._tensors import along, normal_like
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.gradients import gradient
from mmdflow.methods.discriminator_flow.settings import DiscriminatorFlow

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


def levels(settings: DiscriminatorFlow, index: Int[Tensor, " n"], like: Tensor) -> Float[Tensor, " n"]:
    """Return the level t = 1 - i / n of particles that have made i steps.

    Example:
        >>> levels(DiscriminatorFlow(num_steps=4), torch.tensor([0, 1, 3]), torch.zeros(3)).tolist()
        [1.0, 0.75, 0.25]
    """
    return 1 - index.to(like) / settings.num_steps


def discriminator_step(
    settings: DiscriminatorFlow,
    network: FeatureNetwork,
    x: Float[Tensor, "n *event"],
    index: Int[Tensor, " n"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n *event"]:
    """Return the particles after one step of `DiscriminatorFlow`, whose number for every particle is `index`, detached."""
    t, descended = levels(settings, index, x), OBJECTIVES[settings.objective].descended
    moved = x - settings.step_size / settings.num_steps * gradient(lambda z: descended(network(z, t)[:, 0]), x)
    if settings.noise:
        spread = settings.noise / math.sqrt(settings.num_steps) * (index < settings.num_steps - 1).to(x)
        moved = moved + along(spread, x) * normal_like(x, generator)
    return moved
