"""Witness functions: the first variation f of a divergence, a function on events with a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _arrays, ops
from mmdflow._arrays import of_any_kind
from mmdflow._precision import full_precision, leaves_range, widened
from mmdflow._tensors import along
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel
from mmdflow.ops.dispatch import embedding_grad
from mmdflow.types import ArrayLike


@runtime_checkable
class Witness(Protocol):
    """f: [n, *event] -> [n], with `grad`: [n, *event] -> [n, *event].

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Witness
        >>> isinstance(MMD(torch.zeros(1, 2)).witness(torch.ones(1, 2)), Witness)
        True
    """

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        ...

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i)."""
        ...


class KernelWitness:
    """f(z) = sum_j weights_j k(z, points_j): MMD, KALE and DrMMD differ only in the weights.

    Args:
        kernel: the kernel k.
        points: [p, *event].
        weights: [p]; 1/n on particles and -1/m on the target for MMD.
        tolerance: of sums by ``ops.backend("fast", tolerance)``; None for sums as they are made where f is evaluated.

    Sums are taken in the points' dtype, if the kernel takes any, in float32 at least; f and its gradient come in the dtype of z.
    z may be an array of any kind, as may points and weights.

    Example:
        >>> import torch
        >>> from mmdflow import KernelWitness, Linear
        >>> f = KernelWitness(Linear(), torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, 0.5]))  # f(z) = 2 z
        >>> f(torch.tensor([[4.0]])), f.grad(torch.tensor([[4.0]]))
        (tensor([8.]), tensor([[2.]]))
    """

    def __init__(
        self,
        kernel: Kernel,
        points: Float[Tensor, "p *event"] | ArrayLike,
        weights: Float[Tensor, " p"] | ArrayLike,
        tolerance: float | None = None,
    ) -> None:
        self.kernel, self.tolerance = kernel, tolerance
        self.points, self.weights = _arrays.tensor("points", points), _arrays.tensor("weights", weights)

    @of_any_kind
    @full_precision
    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        with ops.within(self.tolerance):
            return ops.kernel_sum(self.kernel, *self._alike(z)).to(z.dtype)

    @of_any_kind
    @full_precision
    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i)."""
        with ops.within(self.tolerance):
            return ops.kernel_sum_grad(self.kernel, *self._alike(z)).to(z.dtype)

    def _alike(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, the points and their weights in the widest of their dtypes, if the kernel takes any."""
        like = _like(z, self.points, self.kernel)
        if like.dtype == self.points.dtype:
            return like, self.points, self.weights
        return like, self.points.to(like.dtype), self.weights.to(torch.promote_types(like.dtype, self.weights.dtype))


def _like(z: Tensor, held: Tensor, kernel: Kernel) -> Tensor:
    """Return z in the wider of its dtype and that of what is held; in the kernel's own where it has learned weights."""
    if kernel.any_dtype:
        return z.to(torch.promote_types(z.dtype, held.dtype))
    return z.to(next((weight.dtype for weight in kernel.parameters()), z.dtype))


class EmbeddingWitness:
    """f(z) = <psi(z), direction> for a kernel with a finite feature map psi: the whole sum in one vector.

    Args:
        kernel: a kernel whose `embed` gives psi.
        direction: [K]; the difference of mean embeddings for MMD (DMMD paper, eq. 13).
    """

    def __init__(self, kernel: Kernel, direction: Float[Tensor, " K"]) -> None:
        self.kernel, self.direction = kernel, direction

    @of_any_kind
    @full_precision
    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        psi, direction = widened(self.kernel.embed(_like(z, self.direction, self.kernel))), self.direction
        direction = direction.to(psi.dtype)
        if leaves_range(psi, direction):
            psi, direction = psi.double(), direction.double()
        return (psi @ direction).to(z.dtype)

    @of_any_kind
    @full_precision
    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i)."""
        return embedding_grad(self.kernel, _like(z, self.direction, self.kernel), self.direction).to(z.dtype)


class ValueWitness:
    """The first variation of F by automatic differentiation, for divergences that give `forward` alone.

    f(z) is the derivative of F in the weight of a particle that is added at z with weight 0. Its gradient is a second derivative.
    f(z) is known up to a constant, as every first variation is.

    Args:
        value: (particles, weights) -> F, differentiable in both, twice where `grad` is taken.
        points: the particles at which f is frozen, [n, *event].
        weights: theirs, [n]; None for 1/n each.

    Example:
        >>> import torch
        >>> from mmdflow import ValueWitness
        >>> f = ValueWitness(lambda x, w: w @ x[:, 0] ** 2, torch.zeros(2, 1))  # F = E x^2, so f(z) = z^2
        >>> f(torch.tensor([[3.0]])), f.grad(torch.tensor([[3.0]]))
        (tensor([9.]), tensor([[6.]]))
    """

    def __init__(
        self,
        value: Callable[[Tensor, Tensor | None], Tensor],
        points: Float[Tensor, "n *event"] | ArrayLike,
        weights: Float[Tensor, " n"] | ArrayLike | None = None,
    ) -> None:
        self.value, self.points = value, _arrays.tensor("points", points).detach()
        self.weights = None if weights is None else _arrays.tensor("weights", weights).detach()

    @of_any_kind
    @full_precision
    def __call__(self, z: Float[Tensor, "k *event"]) -> Float[Tensor, " k"]:
        """Return f(z_i).

        Raises:
            InputError: where F does not depend on the weights.
        """
        differentiable = torch.is_grad_enabled() and z.requires_grad
        n = len(self.points)
        weights = self.points.new_full((n,), 1 / n) if self.weights is None else self.weights
        with torch.enable_grad():
            added = z.new_zeros(len(z)).requires_grad_()
            value = self.value(torch.cat([self.points, z]), torch.cat([weights, added]))
            f = None
            if value.requires_grad:
                # an upstream with a gradient makes functions that have no second derivative leave a mark in the graph
                upstream = torch.ones_like(value).requires_grad_(differentiable)
                (f,) = torch.autograd.grad(value, added, upstream, create_graph=differentiable, allow_unused=True)
        if f is None:
            raise InputError("weights: forward does not use them; the witness is its derivative in the weights")
        return f

    @of_any_kind
    @full_precision
    def grad(self, z: Float[Tensor, "k *event"]) -> Float[Tensor, "k *event"]:
        """Return grad f(z_i).

        Raises:
            InputError: where F has no second derivative.
        """
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            f = self(z)
            if _differentiable_once(f):
                raise InputError(
                    "forward: must be differentiable twice for a gradient of the witness elsewhere than at the particles; or "
                    "give the divergence a witness"
                )
            return torch.autograd.grad(f.sum() + 0 * z.sum(), z)[0]  # f may be constant

    @full_precision
    def grad_at_particles(self) -> Float[Tensor, "n *event"]:
        """Return grad f(x_i) at the particles themselves by the law dF/dx_i = w_i grad f(x_i): one first derivative."""
        if self.weights is not None and not bool((self.weights > 0).all()):
            return self.grad(self.points)
        with torch.enable_grad():
            x = self.points.clone().requires_grad_()
            value = self.value(x, self.weights)
            if value.ndim:
                name = type(self.value).__name__
                raise InputError(
                    f"{name}: forward returned shape {list(value.shape)}: must return F, a tensor of shape []"
                )
            (slope,) = torch.autograd.grad(value + 0 * x.sum(), x)
        return len(x) * slope if self.weights is None else slope / along(self.weights, slope)


def _differentiable_once(f: Tensor) -> bool:
    """Whether f was computed by a function without a second derivative, through which a gradient would be silently 0."""
    seen: set[Any] = set()
    nodes = [f.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name() in ("torch::autograd::Error", "_OnceBackward"):
            return True
        seen.add(node)
        nodes.extend(parent for parent, _ in node.next_functions)
    return False
