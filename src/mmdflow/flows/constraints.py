"""Callbacks of `flow` that keep every particle in a set, by projection after each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import flat
from mmdflow.errors import InputError

#: (steps made, particles) -> the particles, projected.
Projection: TypeAlias = Callable[[int, Tensor], Tensor]


def box(low: float | Tensor, high: float | Tensor) -> Projection:
    """Keep every entry between `low` and `high`: numbers, or tensors of an event's shape.

    Example:
        >>> import torch
        >>> box(0.0, 1.0)(1, torch.tensor([[-2.0, 0.5]]))
        tensor([[0.0000, 0.5000]])
    """
    bounds = torch.as_tensor(low), torch.as_tensor(high)
    if not bool((bounds[0] <= bounds[1]).all()):
        raise InputError(f"low = {low!r}, high = {high!r}: low must not exceed high")

    def project(step: int, particles: Tensor) -> Tensor:
        for name, bound in zip(("low", "high"), bounds, strict=True):
            if bound.ndim and bound.shape != particles.shape[1:]:
                raise InputError(
                    f"{name} has shape {list(bound.shape)}: must be {list(particles.shape[1:])}, an event's, or a number"
                )
        return torch.clamp(particles, bounds[0].to(particles), bounds[1].to(particles))

    return project


def sphere(radius: float = 1.0) -> Projection:
    """Keep every particle at distance `radius` from the origin; a particle at the origin goes to its first axis.

    Example:
        >>> import torch
        >>> sphere(2.0)(1, torch.tensor([[3.0, 4.0]]))
        tensor([[1.2000, 1.6000]])
    """
    _checks.positive("radius", radius)

    def project(step: int, particles: Tensor) -> Tensor:
        x = flat(particles)
        tiny = torch.finfo(x.dtype).tiny
        x = x / x.abs().amax(1, keepdim=True).clamp_min(tiny)  # squares neither over- nor underflow
        norms = x.norm(dim=1, keepdim=True)
        axis = torch.zeros_like(x)
        axis[:, 0] = 1
        unit = torch.where(norms > 0, x / norms.clamp_min(tiny), axis)
        return (radius * unit).reshape(particles.shape)

    return project


def simplex(total: float = 1.0) -> Projection:
    """Keep every particle non-negative with entries that sum to `total`: the nearest such point (Duchi et al. 2008).

    Example:
        >>> import torch
        >>> simplex()(1, torch.tensor([[1.0, 1.0, -3.0]]))
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    _checks.positive("total", total)

    def project(step: int, particles: Tensor) -> Tensor:
        x = flat(particles)
        x = x - x.amax(1, keepdim=True)  # moves every point alike along (1, ..., 1), which the projection undoes
        ordered = x.sort(1, descending=True).values
        counts = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        thresholds = (ordered.cumsum(1) - total) / counts
        support = (ordered > thresholds).sum(1, keepdim=True).clamp_min(1)
        return (x - thresholds.gather(1, support - 1)).clamp_min(0).reshape(particles.shape)

    return project
