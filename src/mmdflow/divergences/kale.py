"""The KL approximate lower bound estimator, KALE (Glaser, Arbel, Gretton 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow.divergences.base import Divergence
from mmdflow.errors import DivergedError
from mmdflow.kernels import Kernel
from mmdflow.witness import KernelWitness, Witness


@dataclass(frozen=True)
class KALESolution:
    """The dual optimum at some particles.

    Attributes:
        weights: a on the target's points, [m]; exp(h(y_i)) / m at the optimum.
        gap: the duality gap that is left, at least 0 up to rounding.
        iterations: Newton steps made.
    """

    weights: Float[Tensor, " m"]
    gap: float
    iterations: int


class KALE(Divergence):
    r"""F = (1 + lambda) max_h { 1 + E_nu h - E_mu e^h - lambda/2 |h|^2 }: KL as lambda -> 0, 1/2 MMD^2 as lambda -> inf.

    Solved in the dual, min over a > 0 of sum a_i log(m a_i) - sum a_i + 1/(2 lambda) |sum a_i k(y_i, .) - mean_j k(x_j, .)|^2, by
    damped Newton steps, warm-started from the last call; h = (1/lambda) [ mean_j k(., x_j) - sum a_i k(., y_i) ] and the
    witness is (1 + lambda) h. Each Newton step costs O(m^3).

    Args:
        target: samples y, [m, *event].
        kernel: the kernel k.
        regularization: lambda, positive.
        tolerance: of the duality gap, relative to 1 + |value|; by default 1e-10 in float64, 1e-4 in float32.
        max_iterations: Newton steps at most.

    Raises:
        InputError: for a bad target or settings.
        DivergedError: when the gap stays above the tolerance; says the gap and what to change.
    """

    target: Tensor
    gram: Tensor

    def __init__(
        self,
        target: Float[Tensor, "m *event"],
        kernel: Kernel,
        regularization: float,
        *,
        tolerance: float | None = None,
        max_iterations: int = 100,
    ) -> None:
        super().__init__()
        target = _checks.points("target", target).detach()
        self.kernel, self.event_shape = kernel, tuple(target.shape[1:])
        self.regularization = _checks.positive("regularization", regularization)
        default = 1e-10 if target.dtype == torch.float64 else 1e-4
        self.tolerance = default if tolerance is None else _checks.positive("tolerance", tolerance)
        self.max_iterations = _checks.count("max_iterations", max_iterations)
        self.register_buffer("target", target)
        with torch.no_grad():
            self.register_buffer("gram", kernel(target, target))
        self._last: Tensor | None = None

    def forward(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, ""]:
        """Return F at the particles x; its gradient in x is that of the dual with the optimal a held fixed (envelope)."""
        a = self.solve(x).weights
        weights = x.new_full((len(x),), 1 / len(x))
        own = weights @ ops.kernel_sum(self.kernel, x, x, weights)
        cross = a @ ops.kernel_sum(self.kernel, self.target, x, weights)
        return (1 + self.regularization) * (1 + self._entropy(a) + self._quadratic(a, cross, own))

    def witness(self, x: Float[Tensor, "n *event"]) -> Witness:
        """Return the first variation (1 + lambda) h of F, frozen at the particles x."""
        a = self.solve(x).weights
        scale = (1 + self.regularization) / self.regularization
        weights = torch.cat([x.new_full((len(x),), 1 / len(x)), -a])
        return KernelWitness(self.kernel, torch.cat([x.detach(), self.target]), scale * weights)

    @torch.no_grad()
    def solve(self, x: Float[Tensor, "n *event"]) -> KALESolution:
        """Solve the dual at the particles x."""
        m = len(self.target)
        weights = x.new_full((len(x),), 1 / len(x))
        towards = ops.kernel_sum(self.kernel, self.target, x, weights)
        own = weights @ ops.kernel_sum(self.kernel, x, x, weights)
        a = x.new_full((m,), 1 / m) if self._last is None else self._last.to(x)
        gap = float("inf")
        for iteration in range(self.max_iterations + 1):
            value = self._entropy(a) + self._quadratic(a, a @ towards, own)
            gap = float(1 + value - self._primal(a, towards, own))
            converged = gap <= self.tolerance * (1 + abs(float(value)))
            a = self._newton(a, towards, own, value)  # after convergence too: the gap is the square of the error in a
            if converged:
                self._last = a
                return KALESolution(a, gap, iteration + 1)
        raise DivergedError(
            f"KALE did not converge in {self.max_iterations} Newton steps (duality gap {gap:.2e}, tolerance "
            f"{self.tolerance:.0e}): raise regularization ({self.regularization:g}), use float64, or raise max_iterations"
        )

    def _newton(self, a: Tensor, towards: Tensor, own: Tensor, value: Tensor) -> Tensor:
        """Return a after one damped Newton step that does not raise the dual.

        The step is taken multiplicatively, a exp(step / a): to first order the same, always positive, and it reaches the tiny
        weights exp(-|h| / m) of points that h drives far down at once instead of by a bounded factor a step.
        """
        gradient = torch.log(len(a) * a) + (self.gram @ a - towards) / self.regularization
        root = a.sqrt()
        # the Hessian diag(1/a) + K/lambda is S^-1 (I + S K S / lambda) S^-1 with S = diag(sqrt a)
        inner = root[:, None] * self.gram * root[None, :] / self.regularization
        inner.diagonal().add_(1)
        step = -root * torch.linalg.solve(inner, root * gradient)
        rate, tiny, size = step / a, 1e3 * torch.finfo(a.dtype).tiny, 1.0
        slope = float(gradient @ step)
        if -slope < math.sqrt(torch.finfo(a.dtype).eps) * (1 + abs(float(value))):
            return (a * torch.exp(rate)).clamp_min(
                tiny
            )  # the decrease is below what the value resolves; Newton converges quadratically here
        for _ in range(40):
            candidate = (a * torch.exp(size * rate)).clamp_min(tiny)
            new = self._entropy(candidate) + self._quadratic(candidate, candidate @ towards, own)
            if float(new - value) <= 1e-4 * size * slope + 4 * torch.finfo(a.dtype).eps * abs(float(value)):
                return candidate
            size /= 2
        return a

    def _entropy(self, a: Tensor) -> Tensor:
        return (a * torch.log(len(a) * a)).sum() - a.sum()

    def _quadratic(self, a: Tensor, cross: Tensor, own: Tensor) -> Tensor:
        return (a @ (self.gram @ a) - 2 * cross + own) / (2 * self.regularization)

    def _primal(self, a: Tensor, towards: Tensor, own: Tensor) -> Tensor:
        """Return the primal value at the h that a stands for: a lower bound of the optimum."""
        h_target = (towards - self.gram @ a) / self.regularization
        h_particles = (own - a @ towards) / self.regularization
        norm = self._quadratic(a, a @ towards, own)  # lambda/2 |h|^2
        return 1 + h_particles - h_target.exp().mean() - norm
