"""The base class of kernels, and their algebra: sums and products of kernels are kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _arrays, _checks
from mmdflow._precision import decorate, of_any_dtype
from mmdflow.errors import InputError
from mmdflow.kernels import derivatives
from mmdflow.kernels.profiles import Term
from mmdflow.types import Step

#: A function of a kernel, z [n, *event] and points [m, *event] that sums the kernel, or its gradient, over the points at every z.
PartSum: TypeAlias = Callable[["Kernel", Tensor, Tensor], Tensor]
#: Methods that compute inside autocast as outside, whatever class defines them.
METHODS = frozenset({"forward", "grad", "diag", "embed", "tangent", "tangent_grad", "mixed", "log"})


class Kernel(nn.Module):
    """A kernel k(x, y) on events of any shape. `forward` is enough for a kernel of one's own.

    All derivatives, and the diagonal, come from `forward` by automatic differentiation where a class has nothing better.
    `mmdflow.kernels.check_kernel` verifies what a class gives.

    Its methods take arrays of any kind, and return what they were given. Inside `torch.autocast` a kernel gives the values that
    it gives outside. Points in half precision are taken in float32, where the kernel is a formula alone; the result is then
    rounded.

    Example:
        >>> import torch
        >>> class Cauchy(Kernel):
        ...     def forward(self, x, y):
        ...         return 1 / (1 + torch.cdist(x.flatten(1), y.flatten(1)) ** 2)
        >>> Cauchy().grad(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 1))
        tensor([[-0.2222, -0.2222]])
    """

    #: Whether k has a mixed second derivative at coinciding points, which Sobolev norms need. Laplace and Riesz have none.
    smooth: bool = True
    #: Whether every Gram matrix is positive semidefinite, which regularised divergences need. Riesz is so conditionally only.
    positive: bool = True
    #: Whether the kernel is a formula alone, which takes points of any dtype. A network's weights have one of their own.
    any_dtype: bool = False
    #: Whether a parameter is so small or large that its square leaves float32, in which sums are then not taken.
    extreme: bool = False
    #: Whether k grows with the distance from the origin, so that differences of its sums lose their digits far away.
    grows: bool = False

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        decorate(cls, METHODS, of_any_dtype)
        decorate(cls, METHODS, _arrays.of_any_kind)

    def forward(self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]) -> Float[Tensor, "n m"]:
        """Return the Gram matrix k(x_i, y_j)."""
        raise NotImplementedError(f"{type(self).__name__}.forward: must return k(x_i, y_j), [n, m]")

    def grad(
        self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"], weights: Float[Tensor, "#n m"]
    ) -> Float[Tensor, "n *event"]:
        """Return sum_j weights_ij grad_1 k(x_i, y_j)."""
        return derivatives.grad(self, x, y, weights, again=self._learns(x, y, weights))

    def diag(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return k(x_i, x_i)."""
        return derivatives.diag(self, x)

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
        return derivatives.tangent(self, x, y, vectors, again=self._learns(x, y, vectors))

    def tangent_grad(
        self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"], vectors: Float[Tensor, "m *event"]
    ) -> Float[Tensor, "n *event"]:
        """Return the gradient in x_i of `tangent`: sum_j grad_1 <vectors_j, grad_2 k(x_i, y_j)>."""
        return derivatives.tangent_grad(self, x, y, vectors)

    def mixed(self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]) -> Float[Tensor, "n d m d"]:
        """Return all second derivatives d^2 k(x_i, y_j) / dx_ia dy_jb, with events flattened to d entries."""
        return derivatives.mixed(self, x, y)

    def compiled_term(self, dim: int, dtype: torch.dtype) -> Term | None:
        """Return what a compiled backend needs to sum this kernel over events of `dim` entries; None where it cannot."""
        return None

    def companion(self) -> Kernel:
        """Return k# with grad_1 k#(x, y) = k(x, y) (y - x), whose MMD flow is the plain drift of k.

        Of a radial kernel k#(r) = integral from r to infinity of s k(s) ds.

        Raises:
            InputError: if it is not one of the library's kernels.

        Example:
            >>> import torch
            >>> from mmdflow import Gaussian
            >>> Gaussian(2.0).companion()(torch.zeros(1, 1), torch.zeros(1, 1))  # 2^2 Gaussian(2)
            tensor([[4.]])
        """
        raise InputError(
            f"kernel = {type(self).__name__}: has no companion here; drifts take Gaussian, Laplace, Matern 1/2 and 3/2, "
            "RationalQuadratic with alpha > 1, and mixtures of them"
        )

    @property
    def flatness(self) -> float | None:
        """width^2 / k(0), about the inverse of the curvature of k at 0; None where it is not known."""
        return None

    def usual_step(self, spread: float) -> Step | None:
        """Return the step that suits the MMD flow with this kernel; None where no rule is known.

        Args:
            spread: root mean square of the target's entries about their means.

        Example:
            >>> from mmdflow import Gaussian, Riesz
            >>> Gaussian(0.5).usual_step(1.0), Riesz().usual_step(2.0)
            (Step(size=0.5, momentum=0.0), Step(size=0.6, momentum=0.9))
        """
        return None

    def log(self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]) -> Float[Tensor, "n m"]:
        """Return log k(x_i, y_j) of a kernel with positive values, also where k itself underflows if the kernel knows how."""
        return self(x, y).log()

    def sum_by_parts(self, sum_of: PartSum, z: Tensor, points: Tensor) -> Tensor | None:
        """Return sum_j w_j k(z_i, points_j), [n], where `sum_of` gives the same of the kernels that this one is made of.

        The same holds for all else that is linear in the kernel, such as MMD^2. None for a kernel that is made of no others.
        """
        return None

    def grad_by_parts(self, grad_of: PartSum, z: Tensor, points: Tensor) -> Tensor | None:
        """Return sum_j w_j grad_1 k(z_i, points_j), where `grad_of` gives the same of this one's parts, or None."""
        return None

    def _learns(self, *inputs: Tensor) -> bool:
        """Return whether autograd records what is done with the inputs or this kernel's tensors."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in (*inputs, *self.parameters(), *self.buffers()))

    def __add__(self, other: Kernel) -> Mixture:
        if not isinstance(other, Kernel):
            return NotImplemented
        return Mixture([self, other])

    def __mul__(self, other: Kernel | float) -> Kernel:
        return Product(self, other) if isinstance(other, Kernel) else Mixture([self], [other])

    __rmul__ = __mul__


decorate(Kernel, METHODS - {"forward"}, of_any_dtype)
decorate(Kernel, METHODS - {"forward"}, _arrays.of_any_kind)


def keeps_up(kernel: Kernel, fast: str, *plain: str) -> bool:
    """Return whether no subclass redefines a `plain` method below the class that defines `fast`, the quicker way to it.

    A subclass that changes the formula alone would otherwise keep its parent's fast path, and with it the parent's values.
    """
    owners = type(kernel).__mro__
    depth = {name: next(i for i, owner in enumerate(owners) if name in vars(owner)) for name in (fast, *plain)}
    return all(depth[fast] <= depth[name] for name in plain)


class Mixture(Kernel):
    """sum_l weights_l k_l; ``k1 + k2`` and ``2.0 * k`` build it. Weights default to 1 and may not be negative.

    Example:
        >>> import torch
        >>> from mmdflow import Gaussian, Mixture
        >>> kernel = Gaussian(1.0) + 0.5 * Gaussian(4.0)
        >>> isinstance(kernel, Mixture), kernel.diag(torch.zeros(1, 2))
        (True, tensor([1.5000]))
    """

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
        self.any_dtype = all(kernel.any_dtype for kernel in kernels)
        self.grows = any(kernel.grows for kernel in kernels)
        self.extreme = any(kernel.extreme for kernel in kernels)

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

    def companion(self) -> Mixture:
        """Return the mixture of the members' companions."""
        return Mixture([member.companion() for member in self.members()], self.weights)

    def usual_step(self, spread: float) -> Step | None:
        """Return the step whose inverse is the weighted sum of the inverse of the members' steps, with their least momentum."""
        steps = [member.usual_step(spread) for member in self.members()]
        parts = [(step, weight) for step, weight in zip(steps, self.weights, strict=True) if weight > 0]
        known = [(step, weight) for step, weight in parts if step is not None]
        if not known or len(known) < len(parts):
            return None
        return Step(1 / sum(weight / step.size for step, weight in known), min(step.momentum for step, _ in known))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log sum_l weights_l k_l by its members' logarithms."""
        weighted = zip(self.weights, self.members(), strict=True)
        terms = [member.log(x, y) + math.log(weight) for weight, member in weighted if weight > 0]
        return torch.stack(terms).logsumexp(0)

    def sum_by_parts(self, sum_of: PartSum, z: Tensor, points: Tensor) -> Tensor:
        """Return the weighted sum of the members' sums."""
        parts = [sum_of(member, z, points) for member in self.members()]
        rest = (weight * part for weight, part in zip(self.weights[1:], parts[1:], strict=True))
        return sum(rest, self.weights[0] * parts[0])

    def grad_by_parts(self, grad_of: PartSum, z: Tensor, points: Tensor) -> Tensor:
        """Return the weighted sum of the members' gradients."""
        return self.sum_by_parts(grad_of, z, points)

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
        self.any_dtype = first.any_dtype and second.any_dtype
        self.grows = first.grows or second.grows
        self.extreme = first.extreme or second.extreme

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix, [n, m]."""
        return self.first(x, y) * self.second(x, y)

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x (the product rule)."""
        return self.first.grad(x, y, weights * self.second(x, y)) + self.second.grad(x, y, weights * self.first(x, y))

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return self.first.diag(x) * self.second.diag(x)
