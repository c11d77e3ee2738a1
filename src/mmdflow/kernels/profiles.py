"""Radial kernels as a few numbers, which the compiled backends work on.

A profile gives two functions of r2 = |x - y|^2, the kernel and its slope, each up to a factor: k = value_factor * value(r2) and
grad_1 k = slope_factor * slope(r2) (x - y).
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import torch

from mmdflow.kernels import (
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Matern,
    Radial,
    RationalQuadratic,
    Riesz,
)

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


class Term(NamedTuple):
    """A profile and the factors that make it a kernel."""

    profile: Profile
    value_factor: float
    slope_factor: float


def term(kernel: Kernel, dim: int, dtype: torch.dtype) -> Term | None:
    """Return the kernel's profile and factors in dimension `dim`, or None: there are none, or they leave the type's range."""
    if not isinstance(kernel, Radial):
        return None
    try:
        found = _term(kernel, dim)
    except (ZeroDivisionError, OverflowError):
        return None
    most = torch.finfo(dtype).max
    return found if found is not None and all(abs(v) <= most for v in (*found.profile, *found[1:])) else None


def _term(kernel: Radial, dim: int) -> Term | None:
    if type(kernel) is Gaussian:
        b = float(kernel.bandwidth)
        factor = math.exp(-dim * math.log(b)) if kernel.normalized else 1.0
        return Term(Exponential(-0.5 * LOG2E / b**2), factor, -factor / b**2)
    if type(kernel) is Laplace or (type(kernel) is Matern and kernel.nu == 0.5):
        a = 1 / float(kernel.bandwidth)
        return Term(Decay(-a * LOG2E, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0), 1.0, -a)
    if type(kernel) is Matern:
        a = math.sqrt(2 * kernel.nu) / float(kernel.bandwidth)
        if kernel.nu == 1.5:
            return Term(Decay(-a * LOG2E, 1.0, a, 0.0, 1.0, 0.0, 0.0), 1.0, -(a**2))
        return Term(Decay(-a * LOG2E, 1.0, a, a**2 / 3, 1.0, a, 0.0), 1.0, -(a**2) / 3)
    if type(kernel) is InverseMultiquadric:
        return Term(InverseRoot(float(kernel.scale) ** 2), 1.0, -1.0)
    if type(kernel) is RationalQuadratic:
        alpha, scale = float(kernel.alpha), float(kernel.scale)
        return Term(Power(1.0, 1 / (2 * alpha * scale**2), -alpha, -alpha - 1), 1.0, -1 / scale**2)
    if type(kernel) is Riesz:
        if kernel.exponent == 1:
            return Term(Distance(), -1.0, -1.0)
        return Term(Power(0.0, 1.0, kernel.exponent / 2, kernel.exponent / 2 - 1), -1.0, -kernel.exponent)
    return None
