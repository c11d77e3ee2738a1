"""Shapes of events and devices of generators: what every room does with tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def flat(x: Tensor) -> Tensor:
    """Return x, [n, *event], as [n, d]."""
    return x.reshape(x.shape[0], -1)


def along(t: Tensor, x: Tensor) -> Tensor:
    """Shape t, [] or [n], so that it multiplies x, [n, *event], event by event."""
    return t.reshape(-1, *([1] * (x.ndim - 1))) if t.ndim else t


def device_of(generator: torch.Generator | None, default: torch.device | str = "cpu") -> torch.device | str:
    """Return the device on which to draw: the generator's."""
    return default if generator is None else generator.device
