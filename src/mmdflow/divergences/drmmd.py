"""The (de)regularised MMD (Chen, Mustafi, Glaser, Korba, Gretton, Sriperumbudur, JMLR 2025)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow.divergences.base import Divergence
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel
from mmdflow.witness import KernelWitness, Witness


class DrMMD(Divergence):
    r"""F = (1 + lambda) |(Sigma_mu + lambda I)^(-1/2) (m_nu - m_mu)|^2: chi^2 as lambda -> 0, MMD^2 as lambda -> inf.

    With B = (K_yy + m lambda I)^-1 and v = K_yx 1/n - K_yy 1/m:
    F = ((1 + lambda) / lambda) [ MMD^2 - v^T B v ], witness (2 (1 + lambda) / lambda) [ kbar_x(z) - kbar_y(z) - k(z, Y) B v ].
    K_yy + m lambda I is factorised once, O(m^3); a velocity costs O(m (n + m)).

    Args:
        target: samples y, [m, *event].
        kernel: the kernel k.
        regularization: lambda, positive.

    Raises:
        InputError: for a bad target or regularisation, or a Gram matrix that is not positive definite in this precision.
    """

    target: Tensor
    factor: Tensor
    gram_mean: Tensor

    def __init__(self, target: Float[Tensor, "m *event"], kernel: Kernel, regularization: float) -> None:
        super().__init__()
        target = _checks.points("target", target).detach()
        self.kernel, self.event_shape = kernel, tuple(target.shape[1:])
        self.regularization = _checks.positive("regularization", regularization)
        self.register_buffer("target", target)
        with torch.no_grad():
            gram = kernel(target, target)
            self.register_buffer("gram_mean", gram.mean(1))
            gram.diagonal().add_(len(target) * self.regularization)
            factor, info = torch.linalg.cholesky_ex(gram)
        if int(info):
            raise InputError(
                f"regularization = {regularization:g}: K + m lambda I of {len(target)} points is not positive definite in "
                f"{target.dtype}; raise it, use float64, or a positive definite kernel (Riesz is not)"
            )
        self.register_buffer("factor", factor)

    def forward(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, ""]:
        """Return F at the particles x, differentiable in x."""
        weights = x.new_full((len(x),), 1 / len(x))
        at_target = ops.kernel_sum(self.kernel, self.target, x, weights)
        gap = at_target - self.gram_mean
        mmd2 = weights @ ops.kernel_sum(self.kernel, x, x, weights) - 2 * at_target.mean() + self.gram_mean.mean()
        return (1 + self.regularization) / self.regularization * (mmd2 - gap @ self._solve(gap))

    def witness(self, x: Float[Tensor, "n *event"]) -> Witness:
        """Return the first variation of F, frozen at the particles x."""
        with torch.no_grad():
            x = x.detach()
            weights = x.new_full((len(x),), 1 / len(x))
            correction = self._solve(ops.kernel_sum(self.kernel, self.target, x, weights) - self.gram_mean)
            on_target = -1 / len(self.target) - correction
            scale = 2 * (1 + self.regularization) / self.regularization
            return KernelWitness(self.kernel, torch.cat([x, self.target]), scale * torch.cat([weights, on_target]))

    def _solve(self, v: Tensor) -> Tensor:
        return torch.cholesky_solve(v[:, None], self.factor)[:, 0]
