"""The base class of kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from mmdflow.kernels.composed import Mixture


class Kernel(nn.Module):
    """A kernel k(x, y) on events of any shape. Subclasses give `forward`, `grad` and `diag` (and `embed` if finite).

    The derivatives in the second argument come from `forward` by automatic differentiation where a subclass has nothing better.
    """

    #: Whether k has a mixed second derivative at coinciding points, which Sobolev norms need. Laplace and Riesz have none.
    smooth: bool = True
    #: Whether every Gram matrix is positive semidefinite, which regularised divergences need. Riesz is so conditionally only.
    positive: bool = True

    def forward(self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]) -> Float[Tensor, "n m"]:
        """Return the Gram matrix k(x_i, y_j)."""
        raise NotImplementedError

    def grad(
        self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"], weights: Float[Tensor, "#n m"]
    ) -> Float[Tensor, "n *event"]:
        """Return sum_j weights_ij grad_1 k(x_i, y_j)."""
        raise NotImplementedError

    def diag(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return k(x_i, x_i)."""
        raise NotImplementedError

    @property
    def finite(self) -> bool:
        """Whether `embed` gives a finite feature map."""
        return False

    def embed(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n K"]:
        """Return a finite feature map psi with k(x, y) = <psi(x), psi(y)>; only where `finite`."""
        raise TypeError(f"{type(self).__name__} has no finite feature map")

    def tangent(
        self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"], vectors: Float[Tensor, "m *event"]
    ) -> Float[Tensor, " n"]:
        """Return sum_j <vectors_j, grad_2 k(x_i, y_j)>: the change of sum_j k(x_i, y_j) when y moves along vectors."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            ones = x.new_ones(len(x)).requires_grad_()
            y = y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(ones @ self(x, y).sum(1), y, create_graph=True)
            return torch.autograd.grad((slope * vectors).sum(), ones, create_graph=differentiable)[0]

    def tangent_grad(
        self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"], vectors: Float[Tensor, "m *event"]
    ) -> Float[Tensor, "n *event"]:
        """Return the gradient in x_i of `tangent`: sum_j grad_1 <vectors_j, grad_2 k(x_i, y_j)>."""
        with torch.enable_grad():
            x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self(x, y).sum(), y, create_graph=True)
            return torch.autograd.grad((slope * vectors).sum(), x)[0]

    def mixed(self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]) -> Float[Tensor, "n d m d"]:
        """Return all second derivatives d^2 k(x_i, y_j) / dx_ia dy_jb, with events flattened to d entries."""
        with torch.enable_grad():
            x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self(x, y).sum(), y, create_graph=True)
        rows = torch.eye(y.numel(), dtype=y.dtype, device=y.device).reshape(-1, *y.shape)
        blocks = torch.stack([torch.autograd.grad(slope, x, row, retain_graph=True)[0] for row in rows])
        return blocks.reshape(len(y), -1, len(x), x[0].numel()).permute(2, 3, 0, 1)

    def __add__(self, other: Kernel) -> Mixture:
        from mmdflow.kernels.composed import Mixture

        return Mixture([self, other])

    def __mul__(self, other: Kernel | float) -> Kernel:
        from mmdflow.kernels.composed import Mixture, Product

        return Product(self, other) if isinstance(other, Kernel) else Mixture([self], [other])

    __rmul__ = __mul__
