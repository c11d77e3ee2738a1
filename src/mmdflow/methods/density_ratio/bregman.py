"""Bregman losses of a density ratio, and the f-divergences that particles descend with it (Sugiyama et al. 2012)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mmdflow.noise import clamped_exp

Pointwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bregman:
    """A loss whose minimiser is the ratio r = q / p of the densities of particles and target, in terms of the network's d.

    Attributes:
        on_particles: the integrand under q.
        on_target: the integrand under p.
        of_ratio: d as a function of r: log r, or r itself.
    """

    on_particles: Pointwise
    on_target: Pointwise
    of_ratio: Pointwise


def _same(d: Tensor) -> Tensor:
    return d


#: Losses by the name that recipes use; all but lsif have d = log r.
BREGMAN = {
    "lr": Bregman(lambda d: F.softplus(-d), F.softplus, lambda r: r.log()),
    "kl": Bregman(lambda d: -d, clamped_exp, lambda r: r.log()),
    "lsif": Bregman(lambda d: -d, lambda d: d.square() / 2, _same),
}

#: f'(r) up to a constant, in terms of d, by the divergence's name: d = r for pearson, log r for the others.
DIVERGENCES: dict[str, Pointwise] = {
    "kl": _same,  # f = r log r
    "js": F.logsigmoid,  # f = r log r - (1 + r) log((1 + r) / 2)
    "logd": F.softplus,  # f = (1 + r) log(1 + r) - r
    "pearson": lambda d: 2 * d,  # f = (r - 1)^2
}
