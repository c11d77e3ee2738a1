"""Kernels of features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmdflow.kernels.base import Kernel, PartSum
from mmdflow.kernels.derivatives import differentiable, leaf


class Deep(Kernel):
    r"""k(x, y) = base(phi(x), phi(y)) for learned or fixed features phi: [n, *event] -> [n, K] (DMMD paper, eq. 2).

    Args:
        base: the kernel on features.
        features: a module or function phi.

    Example:
        >>> import torch
        >>> from mmdflow import Deep, Linear
        >>> kernel = Deep(Linear(), lambda x: x.square())  # phi of one's own; a module is trained with the kernel
        >>> kernel(torch.tensor([[2.0]]), torch.tensor([[1.0], [3.0]]))
        tensor([[ 4., 36.]])
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
        return self._pulled_back(lambda phi: self.base.grad(phi, self.features(y), weights), x)

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

    def sum_by_parts(self, sum_of: PartSum, z: Tensor, points: Tensor) -> Tensor:
        """Return the base's sum on features."""
        return sum_of(self.base, self.features(z), self.features(points))

    def grad_by_parts(self, grad_of: PartSum, z: Tensor, points: Tensor) -> Tensor:
        """Return the base's gradient on features, pulled back through phi at z; z and the points are embedded once each."""
        return self._pulled_back(lambda phi: grad_of(self.base, phi.detach(), self.features(points)), z)

    def _pulled_back(self, cotangent: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return J_phi(x_i)^T cotangent(phi(x))_i, shaped like x."""
        with differentiable():
            z = leaf(x)
            phi = self.features(z)
        with torch.no_grad():
            direction = cotangent(phi)
        return torch.autograd.grad(phi, z, direction)[0]
