r"""Variational forms of a divergence: F(P) = sup_h E_P A(h) - E_Q B(h), with no density in it.

For a convex f with f(1) = 0 and r = dP/dQ, Nguyen, Wainwright, Jordan (2010) have

    E_Q f(r) = sup_g E_P g - E_Q f*(g),   attained at g = f'(r).

Here g = f'(e^h) throughout, so that the best h is log r whatever the divergence: A(h) = f'(e^h) and
B(h) = f*(f'(e^h)) = e^h f'(e^h) - f(e^h).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Pointwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class VariationalForm:
    """A divergence from the target, F(P) = sup_h E_P A(h) - E_Q B(h), and what the map descends.

    Attributes:
        on_particles: A, of the potential's values at the particles.
        on_target: B, of its values at the target.
        descent: what the map minimises the mean of: A, or another function with the gradient of the first variation of F at
            the best h.
    """

    on_particles: Pointwise
    on_target: Pointwise
    descent: Pointwise


def _identity(h: Tensor) -> Tensor:
    return h


def _zero_sum(on_particles: Pointwise, on_target: Pointwise) -> VariationalForm:
    return VariationalForm(on_particles, on_target, on_particles)


def _half_log_sigmoid(h: Tensor) -> Tensor:
    return (F.logsigmoid(h) + math.log(2)) / 2


def _half_softplus(h: Tensor) -> Tensor:
    return (F.softplus(h) - math.log(2)) / 2


#: Divergences F by the name that recipes use, with P the particles and Q the target:
#: kl = KL(P, Q); reverse-kl = KL(Q, P); jensen-shannon = (KL(P, M) + KL(Q, M)) / 2 with M = (P + Q) / 2; chi2 = E_Q (r - 1)^2;
#: kl-logistic = KL(P, Q), h found by the form of Jensen-Shannon, which has the same best h and stays bounded;
#: hinge = 2 TV(P, Q) for h, whose mean the map descends without the hinge, as the authors' code for images does.
FORMS: dict[str, VariationalForm] = {
    "kl": _zero_sum(_identity, torch.expm1),
    "reverse-kl": _zero_sum(lambda h: -torch.expm1(-h), _identity),
    "jensen-shannon": _zero_sum(_half_log_sigmoid, _half_softplus),
    "chi2": _zero_sum(lambda h: 2 * torch.expm1(h), lambda h: torch.expm1(2 * h)),
    "kl-logistic": VariationalForm(_half_log_sigmoid, _half_softplus, _identity),
    "hinge": VariationalForm(lambda h: h.clamp_max(1), lambda h: h.clamp_min(-1), _identity),
}
