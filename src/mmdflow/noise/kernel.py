"""Kernels indexed by a noise level t in [0, 1] (0 clean, 1 noise): all that DMMD adds to a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.kernels import Deep, Gaussian, Kernel, Linear


class NoiseConditionalKernel(nn.Module):
    r"""k_t(x, y) = base_t(phi(x, t), phi(y, t)): one kernel for every noise level (DMMD paper, section 4).

    Args:
        features: phi(x, t) with x [n, *event] and t [n] -> [n, K]; the identity when None.
        base: the kernel on features; linear by default (DMMD paper, eq. 11). Override `base_at` where it depends on t.

    Example:
        >>> import torch
        >>> kernel = NoiseConditionalKernel(lambda x, t: t[:, None] * x)
        >>> kernel.at(0.5)(torch.ones(1, 2), torch.ones(1, 2))
        tensor([[0.5000]])
    """

    def __init__(
        self,
        features: Callable[[Tensor, Tensor], Tensor] | None = None,
        base: Kernel | None = None,
    ) -> None:
        super().__init__()
        self.features: Any = features if features is not None else _identity
        self.base = Linear() if base is None else base

    def base_at(self, t: Tensor) -> Kernel:
        """Return the kernel on features at noise level t, a scalar tensor."""
        return self.base

    def at(self, t: float | Tensor) -> Kernel:
        """Return the kernel of noise level t in [0, 1]."""
        level = _checks.interval("t", float(t), 0.0, 1.0)
        return Deep(self.base_at(torch.as_tensor(t)), lambda x: self.features(x, x.new_full((len(x),), level)))


class NoiseConditionalGaussian(NoiseConditionalKernel):
    """k_t(x, y) = exp(-|x - y|^2 / (2 width(t)^2)) on the events themselves (DMMD paper, section 7, Figures 1-2).

    Args:
        width: a positive function or module of t, [] -> [].

    Example:
        >>> import torch
        >>> from mmdflow import NoiseConditionalGaussian
        >>> kernel = NoiseConditionalGaussian(lambda t: 0.1 + t)
        >>> kernel.at(0.9)(torch.zeros(1, 2), torch.ones(1, 2))  # exp(-2 / 2)
        tensor([[0.3679]])
    """

    def __init__(self, width: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.width = width

    def base_at(self, t: Tensor) -> Kernel:
        """Return the Gaussian kernel of width(t)."""
        return Gaussian(self.width(t))


class NoiseConditionalWitness(NoiseConditionalKernel):
    r"""A learned witness h(x, t) = <phi(x, t), a_t> for KL lower bounds (DMMD paper, section D), with its linear kernel.

    a_t is read off sines and cosines of t, and 1 at the start.

    Args:
        features: phi(x, t), [n, *event], [n] -> [n, num_features].
        num_features: K.
    """

    frequencies: Tensor

    def __init__(self, features: Callable[[Tensor, Tensor], Tensor] | None, num_features: int) -> None:
        super().__init__(features)
        self.register_buffer("frequencies", math.pi * torch.arange(1, 9) / 2, persistent=False)
        self.read_out = nn.Linear(16, _checks.count("num_features", num_features))
        nn.init.zeros_(self.read_out.weight)
        nn.init.ones_(self.read_out.bias)

    def direction(self, t: Float[Tensor, " L"]) -> Float[Tensor, "L K"]:
        """Return a_t."""
        angles = t[:, None] * self.frequencies
        direction: Tensor = self.read_out(torch.cat([angles.sin(), angles.cos()], 1))
        return direction


def clamped_exp(h: Tensor, most: float = 15.0) -> Tensor:
    """Return e^h, continued by its tangent above `most`, so that neither it nor its slope overflows."""
    within = h.clamp_max(most)
    return within.exp() * (1 + h - within)


def _identity(x: Tensor, t: Tensor) -> Tensor:
    return x
