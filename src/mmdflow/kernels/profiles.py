"""Radial kernels as a few numbers, which the compiled backends work on.

A profile gives two functions of r2 = |x - y|^2, the kernel and its slope, each up to a factor: k = value_factor * value(r2) and
grad_1 k = slope_factor * slope(r2) (x - y). A radial kernel gives its own in `Radial.compiled_profile`.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

LOG2E = math.log2(math.e)


class Exponential(NamedTuple):
    """value = slope = 2^(rate r2)."""

    rate: float


class Decay(NamedTuple):
    """value = 2^(rate r) (p0 + p1 r + p2 r^2), slope = 2^(rate r) (q0 + q1 r + inverse / r)."""

    rate: float
    p0: float
    p1: float
    p2: float
    q0: float
    q1: float
    inverse: float


class Power(NamedTuple):
    """value = u^exponent, slope = u^below with u = base + rate r2; value 0 at u = 0."""

    base: float
    rate: float
    exponent: float
    below: float


class InverseRoot(NamedTuple):
    """value = u^(-1/2), slope = u^(-3/2) with u = base + r2."""

    base: float


class Distance(NamedTuple):
    """value = r, slope = 1 / r."""

    unused: float = 0.0  # numba wants a field


Profile: TypeAlias = Exponential | Decay | Power | InverseRoot | Distance
#: Those that a sweep over sorted points sums on the line.
Swept: TypeAlias = Decay | Distance


class Term(NamedTuple):
    """A profile and the factors that make it a kernel.

    Attributes:
        profile: value and slope.
        value_factor: of the value.
        slope_factor: of the slope.
        other: the term of the kernel that the slope is of, where the value is of another one (`ops.joint`).
    """

    profile: Profile
    value_factor: float
    slope_factor: float
    other: Term | None = None

    @property
    def potential(self) -> Profile:
        """The profile whose value has the slope in its gradient."""
        return self.profile if self.other is None else self.other.profile

    @property
    def steepness(self) -> float:
        """The gradient of the potential's value(|x - y|^2) is that times slope(|x - y|^2) (x - y)."""
        return self.slope_factor / self.value_factor if self.other is None else self.other.steepness

    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether all numbers are in the range of the type."""
        numbers = (*self.profile, self.value_factor, self.slope_factor)
        return all(abs(number) <= torch.finfo(dtype).max for number in numbers)


def evaluate(term: Term, r2: Tensor) -> tuple[Tensor, Tensor]:
    """Return k and its slope at squared distances r2 > 0 in plain torch: what the compiled backends compute."""
    profile = term.profile
    r = r2.sqrt()
    if isinstance(profile, Exponential):
        value = slope = torch.exp2(profile.rate * r2)
    elif isinstance(profile, Decay):
        decay = torch.exp2(profile.rate * r)
        value = decay * (profile.p0 + r * (profile.p1 + r * profile.p2))
        slope = decay * (profile.q0 + r * profile.q1 + profile.inverse / r)
    elif isinstance(profile, Power):
        u = profile.base + profile.rate * r2
        value, slope = u**profile.exponent, u**profile.below
    elif isinstance(profile, InverseRoot):
        u = profile.base + r2
        value, slope = u**-0.5, u**-1.5
    else:
        value, slope = r, 1 / r
    return term.value_factor * value, term.slope_factor * slope
