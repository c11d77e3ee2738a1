"""Kernels of the inner product <x, y>."""

from __future__ import annotations

import math

from torch import Tensor

from mmdflow import _checks
from mmdflow._precision import usual
from mmdflow._tensors import flat
from mmdflow.kernels.base import Kernel
from mmdflow.types import Step


class Linear(Kernel):
    r"""k(x, y) = <x, y>: the base kernel of DMMD (DMMD paper, eq. 11).

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Linear
        >>> MMD(torch.tensor([[1.0], [3.0]]), Linear())(torch.zeros(1, 1))  # half the squared distance of the means
        tensor(2.)
    """

    any_dtype = True
    grows = True

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix <x_i, y_j>, [n, m]."""
        return flat(x) @ flat(y).T

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij y_j, shaped like x."""
        return (weights @ flat(y)).expand(x.shape[0], -1).reshape(x.shape)

    def diag(self, x: Tensor) -> Tensor:
        """Return |x_i|^2, [n]."""
        return flat(x).square().sum(1)

    @property
    def flatness(self) -> float:
        """1: its curvature is 1 everywhere."""
        return 1.0

    def usual_step(self, spread: float) -> Step:
        """Return 0.5: the curvature of F with this kernel is 1."""
        return Step(0.5)

    @property
    def finite(self) -> bool:
        """Yes: x itself."""
        return True

    def embed(self, x: Tensor) -> Tensor:
        """Return x flattened, [n, d]."""
        return flat(x)


class Polynomial(Kernel):
    r"""k(x, y) = (gamma <x, y> + constant)^degree, with an integer degree >= 1, gamma > 0 and constant >= 0.

    Example:
        >>> import torch
        >>> from mmdflow import Polynomial
        >>> Polynomial(degree=2)(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]]))  # (5 + 1)^2
        tensor([[36.]])
    """

    any_dtype = True
    grows = True

    def __init__(self, degree: int = 3, gamma: float = 1.0, constant: float = 1.0) -> None:
        super().__init__()
        self.degree = _checks.count("degree", degree)
        self.gamma = _checks.positive("gamma", gamma)
        self.extreme = not usual(math.sqrt(gamma))
        self.constant = _checks.non_negative("constant", constant)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix, [n, m]."""
        return (self.gamma * flat(x) @ flat(y).T + self.constant) ** self.degree

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x."""
        base = self.gamma * flat(x) @ flat(y).T + self.constant
        slope = self.degree * self.gamma * base ** (self.degree - 1)
        return ((weights * slope) @ flat(y)).reshape(x.shape)

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return (self.gamma * flat(x).square().sum(1) + self.constant) ** self.degree
