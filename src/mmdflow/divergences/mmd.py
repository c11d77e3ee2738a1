"""The Maximum Mean Discrepancy and its flow (Arbel, Korba, Salim, Gretton 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow.divergences.base import Divergence, check_kernel, uniform
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel
from mmdflow.witness import EmbeddingWitness, KernelWitness, Witness


class MMD(Divergence):
    r"""F(nu) = 1/2 MMD^2(nu, mu), a V-statistic, with witness f = E_nu k(., x) - E_mu k(., y).

    A kernel with a finite feature map (Linear, Deep(Linear, phi), their mixtures) keeps only the target's mean embedding, and
    every call is O(n). Other kernels cost O(n (n + m)).

    Args:
        target: samples y of mu, [m, *event], m >= 1.
        kernel: the kernel k.
        target_weights: of the target's samples, [m], non-negative; scaled to sum 1. 1/m each by default.

    Raises:
        InputError: if the target is empty, not floating or not finite, or a weight is negative.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian
        >>> divergence = MMD(torch.zeros(1, 1), Gaussian(1.0))
        >>> divergence(torch.ones(1, 1))  # 1 - exp(-1/2)
        tensor(0.3935)
    """

    target: Tensor
    target_weights: Tensor
    target_self: Tensor
    target_mean: Tensor | None

    def __init__(
        self,
        target: Float[Tensor, "m *event"],
        kernel: Kernel,
        *,
        target_weights: Float[Tensor, " m"] | None = None,
    ) -> None:
        super().__init__()
        target = _checks.points("target", target).detach()
        weights = _checks.weights("target_weights", target_weights, target)
        self.kernel = check_kernel(kernel)
        self.event_shape = tuple(target.shape[1:])
        with torch.no_grad():
            self.register_buffer("target_mean", weights @ kernel.embed(target) if kernel.finite else None)
            if not kernel.finite:
                self.register_buffer("target", target)
                self.register_buffer("target_weights", weights)
                self.register_buffer("target_self", weights @ ops.kernel_sum(kernel, target, target, weights))

    @classmethod
    def from_mean_embedding(
        cls, mean: Float[Tensor, " K"], kernel: Kernel, event_shape: tuple[int, ...] | None = None
    ) -> MMD:
        """Make the divergence to a target that is known by its mean embedding E_mu psi(y) only (DMMD paper, eq. 12)."""
        if mean.ndim != 1:
            raise InputError(f"mean has shape {list(mean.shape)}: must be [K]")
        self = cls.__new__(cls)
        Divergence.__init__(self)
        self.kernel, self.event_shape = kernel, event_shape
        self.register_buffer("target_mean", mean.detach())
        return self

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return 1/2 MMD^2 of the particles to the target, differentiable in x and the weights."""
        weights = uniform(x, weights)
        if self.target_mean is not None:
            return (weights @ self.kernel.embed(x) - self.target_mean).square().sum() / 2
        attraction = self.target_weights @ ops.kernel_sum(self.kernel, self.target, x, weights)
        repulsion = weights @ ops.kernel_sum(self.kernel, x, x, weights)
        return repulsion / 2 - attraction + self.target_self / 2

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return f = E_nu k(., x) - E_mu k(., y), frozen at the particles x."""
        with torch.no_grad():
            weights = uniform(x, weights)
            if self.target_mean is not None:
                return EmbeddingWitness(self.kernel, weights @ self.kernel.embed(x) - self.target_mean)
            points = torch.cat([x, self.target])
            return KernelWitness(self.kernel, points, torch.cat([weights, -self.target_weights]))

    def velocity(
        self,
        x: Float[Tensor, "n *event"],
        at: Float[Tensor, "k *event"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "k *event"]:
        """Return -grad f, with f frozen at x, evaluated at `at` (default x)."""
        if self.target_mean is None or at is not None:
            return super().velocity(x, at, weights)
        with torch.enable_grad():  # one evaluation of psi serves the particles' mean and the gradient
            z = x.detach().requires_grad_()
            psi = self.kernel.embed(z)
        direction = uniform(z, weights).detach() @ psi.detach() - self.target_mean
        return -torch.autograd.grad(psi, z, direction.expand_as(psi))[0]
