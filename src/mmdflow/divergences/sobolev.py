"""Sobolev descent: the flow of the kernel Sobolev discrepancy (Mroueh, Sercu, Raj 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow._arrays import of_any_kind
from mmdflow._precision import full_precision, leaves_range
from mmdflow._tensors import along
from mmdflow.divergences.base import Divergence, check_solvable, require_kernel, uniform
from mmdflow.divergences.gram import LEFT, MOST_RANK, SUM_TOLERANCE, widened
from mmdflow.divergences.low_rank import Woodbury, conjugate_gradients, pivoted_cholesky, precise
from mmdflow.divergences.witness import EmbeddingWitness, KernelWitness, Witness
from mmdflow.errors import DivergedError, InputError
from mmdflow.kernels import EXACT_DIM, Kernel
from mmdflow.types import ArrayLike, Step

#: Up to this many unknowns (particles times dimensions) the system is factorised; above, conjugate gradients.
DENSE_UNKNOWNS = 4096
#: Particles whose second derivatives are looked at together.
BLOCK, DIAGONAL_BLOCK = 2048, 16


class SobolevDescent(Divergence):
    r"""F = 1/2 sup { (E_nu f - E_mu f)^2 : E_nu |grad f|^2 + lambda |f|^2 <= 1 } = 1/2 <delta, (L_nu + lambda I)^-1 delta>.

    delta = m_nu - m_mu is the difference of mean embeddings, L_nu = E_nu sum_a d_a k(x, .) (x) d_a k(x, .) the metric, and the
    witness h = (L_nu + lambda I)^-1 delta. Particles move along -grad h, a preconditioned MMD flow: the MMD falls along it, and
    lambda h tends to the MMD's witness as lambda -> inf.

    The metric belongs to the geometry, not to the functional: F's gradient is taken with L_nu held at the particles, so that
    dF/dx_i = w_i grad h(x_i) as for every divergence, but F along a mixture changes the metric too.

    With a finite feature map a K x K system is solved, O(K^3 + n d K^2). Any other smooth kernel goes through Woodbury's
    identity: n d unknowns, directly up to 4096 of them, by conjugate gradients above, in float64. In up to 16 dimensions a
    low-rank factor of r <= 1000 rows is their preconditioner, O(n d r^2) and O(n d r) memory, so that few steps are left, each a
    sum over pairs.

    Args:
        target: samples y, [m, *event].
        kernel: the kernel k; it needs a mixed second derivative (Laplace, Matern 1/2 and Riesz have none at 0).
        regularization: lambda, positive.
        target_weights: of the target's samples, [m]; 1/m each by default.
        tolerance: of the conjugate gradients, relative; by default the square root of the machine precision times 1e-2.
        max_iterations: conjugate gradient steps at most.

    Raises:
        InputError: for a bad target, kernel or regularisation.
        DivergedError: when conjugate gradients do not converge; says the residual and what to change.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian, SobolevDescent
        >>> y, x = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.5], [2.0]]).double()
        >>> scaled = 1e6 * SobolevDescent(y, Gaussian(1.0), 1e6).velocity(x)  # large lambda: the MMD's flow
        >>> torch.allclose(scaled, MMD(y, Gaussian(1.0)).velocity(x), atol=1e-5)
        True
    """

    target: Tensor
    target_weights: Tensor
    target_mean: Tensor | None

    def __init__(
        self,
        target: Float[Tensor, "m *event"] | ArrayLike,
        kernel: Kernel,
        regularization: float,
        *,
        target_weights: Float[Tensor, " m"] | ArrayLike | None = None,
        tolerance: float | None = None,
        max_iterations: int = 1000,
    ) -> None:
        super().__init__()
        target = check_solvable(_checks.points("target", target).detach())
        weights = _checks.weights("target_weights", target_weights, target)
        self.kernel, self.event_shape = require_kernel(kernel, positive=True, smooth=True), tuple(target.shape[1:])
        self.regularization = _checks.positive("regularization", regularization)
        if target.dtype == torch.float32 and (kernel.extreme or leaves_range(target)):
            raise InputError(
                f"target has entries up to {float(target.abs().max()):.1g}, in float32: second derivatives of the kernel "
                f"leave its range; use float64, or other units for the target and the kernel"
            )
        default = 1e-2 * math.sqrt(torch.finfo(target.dtype).eps)
        self.tolerance = default if tolerance is None else _checks.positive("tolerance", tolerance)
        self.max_iterations = _checks.count("max_iterations", max_iterations)
        self.register_buffer("target", target)
        self.register_buffer("target_weights", weights)
        with torch.no_grad():
            self.register_buffer("target_mean", weights @ kernel.embed(target) if kernel.finite else None)

    def usual_step(self) -> Step | None:
        """Return 0.1: the preconditioner has the scale in it."""
        return Step(0.1)

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F at the particles x, differentiable in x and the weights with the metric held fixed."""
        weights = uniform(x, weights)
        h = self.witness(x, weights)
        # 1/2 <delta, A^-1 delta> has the value of <delta, h> - 1/2 <h, A h> and, with h held, its gradient
        at_target = self.target_weights @ h(self.target)
        value = weights @ h(x) - at_target
        return value - value.detach() / 2

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return h, frozen at the particles x."""
        with torch.no_grad():
            x, weights = x.detach(), uniform(x, weights).detach()
            if self.target_mean is not None:
                return self._in_features(x, weights, self.target_mean)
            return self._in_gram(x, weights)

    def _in_features(self, x: Tensor, weights: Tensor, target_mean: Tensor) -> Witness:
        """Solve on the feature map: L_nu = sum_i w_i J_i J_i^T."""
        psi = self.kernel.embed(x)
        jacobian = _jacobian(self.kernel, x, psi.shape[1]) * weights.sqrt()[:, None]
        metric = jacobian.flatten(1) @ jacobian.flatten(1).T
        metric.diagonal().add_(self.regularization)
        delta = weights @ psi - target_mean
        return EmbeddingWitness(self.kernel, self._solve(metric, delta))

    def _in_gram(self, x: Tensor, weights: Tensor) -> Witness:
        """Solve for the coefficients of the d_a k(x_i, .): h = (delta - sum_ia beta_ia d_a k(x_i, .)) / lambda (Woodbury).

        (G + lambda W^-1) beta = grad delta(x), with G the mixed second derivatives; symmetric with beta = W^1/2 gamma.
        """
        delta = KernelWitness(self.kernel, torch.cat([x, self.target]), torch.cat([weights, -self.target_weights]))
        if x.numel() <= DENSE_UNKNOWNS:
            root = along(weights.sqrt(), x)
            right = root * delta.grad(x)
            matrix = self.kernel.mixed(x, x) * root.flatten()[:, None, None, None] * root.flatten()[:, None]
            matrix = matrix.reshape(x.numel(), x.numel())
            matrix.diagonal().add_(self.regularization)
            gamma = self._solve(matrix, right.flatten()).reshape(x.shape)
            return _SobolevWitness(delta, x, root * gamma, self.regularization)
        beta = self._conjugate_gradients(x, weights)
        return _SobolevWitness(delta, x, beta.to(x.dtype), self.regularization)

    def _solve(self, matrix: Tensor, right: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info):
            raise DivergedError(
                f"SobolevDescent: the system of {len(right)} unknowns is singular in {matrix.dtype} (duplicate particles?): "
                f"raise regularization ({self.regularization:g}) or use float64"
            )
        return torch.cholesky_solve(right[:, None], factor)[:, 0]

    def _conjugate_gradients(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return beta."""
        z, y = widened(self.kernel, x), widened(self.kernel, self.target)
        weights, of_target = weights.to(z.dtype), self.target_weights.to(z.dtype)
        with ops.tightened(SUM_TOLERANCE):
            slope = ops.kernel_sum_grad(self.kernel, z, torch.cat([z, y]), torch.cat([weights, -of_target]))
        root = along(weights.sqrt(), z).expand_as(z)
        near = self._preconditioner(z, root / math.sqrt(self.regularization))

        def product(v: Tensor) -> Tensor:
            image = ops.tangent_sum_grad(self.kernel, z, z, root * v.reshape(z.shape))
            return v + (root * image).flatten() / self.regularization

        right = (root * slope).flatten() / self.regularization
        solution, relative = conjugate_gradients(product, right, near, self.tolerance, self.max_iterations)
        if not relative <= self.tolerance:
            raise DivergedError(
                f"SobolevDescent: conjugate gradients did not converge in {self.max_iterations} steps (relative residual "
                f"{relative:.1e}, tolerance {self.tolerance:.0e}): raise regularization ({self.regularization:g}), tolerance or "
                f"max_iterations"
            )
        return root * solution.reshape(z.shape)

    def _preconditioner(self, z: Tensor, root: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a near inverse of I + S G S, S = diag(root), with G the mixed second derivatives at the points z."""
        dim = z[0].numel()
        if dim > EXACT_DIM:
            return lambda right: right
        diagonal = self._diagonal(z)
        largest = float(diagonal.max())
        tolerance = max(LEFT * min(self.regularization, largest), 16 * torch.finfo(z.dtype).eps * largest)
        factor = pivoted_cholesky(
            lambda rows, columns: self._mixed(z, rows, columns),
            precise(diagonal),
            tolerance,
            min(MOST_RANK, z.numel() // 4),
        )
        return Woodbury.of(factor, precise(root).flatten())

    def _diagonal(self, z: Tensor) -> Tensor:
        """Return d^2 k(z_i, z_i) / dz_ia dz'_ia, [n d]."""
        blocks = (self.kernel.mixed(part, part) for part in z.split(DIAGONAL_BLOCK))
        return torch.cat([block.flatten(2).flatten(0, 1).diagonal() for block in blocks])

    def _mixed(self, z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return entries [rows, columns] of the mixed second derivatives, whose unknowns are numbered particle by particle."""
        dim = z[0].numel()
        particles, of_rows = (rows // dim).unique(return_inverse=True)
        parts = []
        for part in columns.split(BLOCK * dim):
            at, of_part = (part // dim).unique(return_inverse=True)
            block = self.kernel.mixed(z[particles], z[at])[of_rows, rows % dim]
            parts.append(precise(block[:, of_part, part % dim]))
        return torch.cat(parts, 1)


def _jacobian(kernel: Kernel, x: Tensor, width: int) -> Tensor:
    """Return d psi(x_i) / d x_i, [K, n, d], by forward or reverse differentiation, whichever takes fewer passes."""
    dim = x[0].numel()
    if dim < width:
        axes = torch.eye(dim, dtype=x.dtype, device=x.device).reshape(dim, 1, *x.shape[1:])
        x = x.contiguous()  # forward differentiation does not take expanded tensors
        columns = [torch.func.jvp(kernel.embed, (x,), (axis.expand_as(x).contiguous(),))[1] for axis in axes]
        return torch.stack(columns, 2).transpose(0, 1)
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        rows = [torch.autograd.grad(column.sum(), z, retain_graph=True)[0] for column in kernel.embed(z).unbind(1)]
    return torch.stack(rows).flatten(2)


class _SobolevWitness:
    """h(z) = (delta(z) - sum_j <beta_j, grad_2 k(z, x_j)>) / lambda."""

    def __init__(self, delta: KernelWitness, x: Tensor, beta: Tensor, regularization: float) -> None:
        self.delta, self.x, self.beta, self.regularization = delta, x, beta, regularization

    @of_any_kind
    @full_precision
    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return h(z_i)."""
        moved = ops.tangent_sum(self.delta.kernel, z.to(self.x.dtype), self.x, self.beta).to(z.dtype)
        return (self.delta(z) - moved) / self.regularization

    @of_any_kind
    @full_precision
    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad h(z_i)."""
        moved = ops.tangent_sum_grad(self.delta.kernel, z.to(self.x.dtype), self.x, self.beta).to(z.dtype)
        return (self.delta.grad(z) - moved) / self.regularization
