"""Kernels made of kernels: sums, products, and kernels of features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.kernels.base import Kernel


class Mixture(Kernel):
    """sum_l weights_l k_l; ``k1 + k2`` and ``2.0 * k`` build it. Weights default to 1 and may not be negative."""

    def __init__(self, kernels: Sequence[Kernel], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not kernels:
            raise InputError("kernels = []: must hold at least one kernel")
        weights = [1.0] * len(kernels) if weights is None else list(weights)
        if len(weights) != len(kernels):
            raise InputError(f"weights has {len(weights)} entries: must have {len(kernels)}, one a kernel")
        self.kernels = nn.ModuleList(kernels)
        self.weights = [_checks.non_negative("weights", w) for w in weights]
        self.smooth = all(kernel.smooth for kernel in kernels)
        self.positive = all(kernel.positive for kernel in kernels)

    def _sum(self, term: Callable[[Kernel], Tensor]) -> Tensor:
        parts = [w * term(k) for k, w in zip(self.members(), self.weights, strict=True)]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def members(self) -> list[Kernel]:
        """Return the kernels that are summed."""
        return [k for k in self.kernels if isinstance(k, Kernel)]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix, [n, m]."""
        return self._sum(lambda k: k(x, y))

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x."""
        return self._sum(lambda k: k.grad(x, y, weights))

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return self._sum(lambda k: k.diag(x))

    @property
    def finite(self) -> bool:
        """Whether all members' feature maps are."""
        return all(kernel.finite for kernel in self.members())

    def embed(self, x: Tensor) -> Tensor:
        """Return the members' feature maps side by side; only where all are finite."""
        parts = zip(self.members(), self.weights, strict=True)
        return torch.cat([math.sqrt(weight) * kernel.embed(x) for kernel, weight in parts], 1)

    def tangent(self, x: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
        """Return sum_j <vectors_j, grad_2 k(x_i, y_j)>, [n]."""
        return self._sum(lambda k: k.tangent(x, y, vectors))

    def tangent_grad(self, x: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
        """Return the gradient in x_i of `tangent`, shaped like x."""
        return self._sum(lambda k: k.tangent_grad(x, y, vectors))

    def mixed(self, x: Tensor, y: Tensor) -> Tensor:
        """Return all mixed second derivatives, [n, d, m, d]."""
        return self._sum(lambda k: k.mixed(x, y))


class Product(Kernel):
    """k1(x, y) k2(x, y); ``k1 * k2`` builds it."""

    def __init__(self, first: Kernel, second: Kernel) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.smooth = first.smooth and second.smooth
        self.positive = first.positive and second.positive

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix, [n, m]."""
        return self.first(x, y) * self.second(x, y)

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x (the product rule)."""
        return self.first.grad(x, y, weights * self.second(x, y)) + self.second.grad(x, y, weights * self.first(x, y))

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return self.first.diag(x) * self.second.diag(x)


class Deep(Kernel):
    r"""k(x, y) = base(phi(x), phi(y)) for learned or fixed features phi: [n, *event] -> [n, K] (DMMD paper, eq. 2).

    Args:
        base: the kernel on features.
        features: a module or function phi.
    """

    def __init__(self, base: Kernel, features: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.base = base
        self.features = features
        self.smooth, self.positive = base.smooth, base.positive

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix, [n, m]."""
        return self.base(self.features(x), self.features(y))

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x: the base's gradient pulled back through phi."""
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            phi = self.features(z)
        with torch.no_grad():
            cotangent = self.base.grad(phi, self.features(y), weights)
        return torch.autograd.grad(phi, z, cotangent)[0]

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return self.base.diag(self.features(x))

    @property
    def finite(self) -> bool:
        """Whether the base's feature map is."""
        return self.base.finite

    def embed(self, x: Tensor) -> Tensor:
        """Return the base's feature map of phi(x); only where the base has a finite one."""
        return self.base.embed(self.features(x))
