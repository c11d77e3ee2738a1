"""The Maximum Mean Discrepancy and its flow (Arbel, Korba, Salim, Gretton 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _arrays, _checks, ops
from mmdflow._precision import leaves_range, widened
from mmdflow._tensors import along
from mmdflow.divergences.base import Divergence, require_kernel, spread_of, uniform
from mmdflow.divergences.witness import EmbeddingWitness, KernelWitness, Witness
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel, Riesz
from mmdflow.kernels.profiles import Term
from mmdflow.types import ArrayLike, Particles, Points, Step, Weights


class MMD(Divergence):
    r"""F(nu) = 1/2 MMD^2(nu, mu), a V-statistic, with witness f = E_nu k(., x) - E_mu k(., y).

    A kernel with a finite feature map (Linear, Deep(Linear, phi), their mixtures) keeps only the target's mean embedding, and
    every call is O(n). Other kernels cost O(n (n + m)).

    Far from the origin no digits are lost: feature maps are taken less the target's mean, and kernels that grow there without a
    finite one (`Polynomial`) are summed in float64.

    Args:
        target: samples y of mu, [m, *event], m >= 1.
        kernel: the kernel k; by default Riesz(), the energy distance, which has no bandwidth.
        target_weights: of the target's samples, [m], non-negative; scaled to sum 1. 1/m each by default.
        tolerance: of every sum over pairs, relative: radial kernels in up to three dimensions then cost O((n + m) log(n + m)),
            where that is quicker (``ops.backend("fast", tolerance)`` says more). None, the default, sums exactly.

    Raises:
        InputError: if the target is empty, not floating or not finite, a weight is negative, the tolerance is not positive, or
            its quick sums do not take the kernel.

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
    target_rest: Tensor
    tolerance: float | None = None
    num_targets: int | None = None  #: how many samples there were; None where only their mean embedding is known

    def __init__(
        self,
        target: Float[Tensor, "m *event"] | ArrayLike,
        kernel: Kernel | None = None,
        *,
        target_weights: Float[Tensor, " m"] | ArrayLike | None = None,
        tolerance: float | None = None,
    ) -> None:
        super().__init__()
        target = _checks.points("target", target).detach()
        self.kernel = kernel = Riesz() if kernel is None else require_kernel(kernel)
        weights = _checks.weights("target_weights", target_weights, widened(self.wide(target)))
        self.event_shape, self.num_targets = tuple(target.shape[1:]), len(target)
        self.tolerance = None if tolerance is None else _checks.positive("tolerance", tolerance)
        self._remember(target)
        with torch.no_grad(), ops.within(self.tolerance):
            if kernel.finite:
                psi = widened(kernel.embed(target))
                mean = weights @ psi
                self._keep_mean(mean, weights @ (psi - mean))
            else:
                self.register_buffer("target_mean", None)
                self.register_buffer("target", target)
                self.register_buffer("target_weights", weights)
                y = self.wide(target)
                self.register_buffer("target_self", weights @ ops.kernel_sum(kernel, y, y, weights))

    @classmethod
    def from_mean_embedding(
        cls, mean: Float[Tensor, " K"] | ArrayLike, kernel: Kernel, event_shape: tuple[int, ...] | None = None
    ) -> MMD:
        """Make the divergence to a target that is known by its mean embedding E_mu psi(y) only (DMMD paper, eq. 12)."""
        mean = _arrays.tensor("mean", mean)
        if mean.ndim != 1:
            raise InputError(f"mean has shape {list(mean.shape)}: must be [K]")
        self = cls.__new__(cls)
        Divergence.__init__(self)
        self.kernel, self.event_shape = kernel, event_shape
        self._remember(mean)
        self._keep_mean(widened(mean.detach()), torch.zeros_like(widened(mean)))
        return self

    def usual_step(self) -> Step | None:
        """Return the step that suits the kernel and the spread of the target; None where no rule is known."""
        return self.kernel.usual_step(1.0 if self.target_mean is not None else spread_of(self.target))

    @classmethod
    def from_landmarks(
        cls,
        landmarks: Float[Tensor, "l *event"] | ArrayLike,
        target: Float[Tensor, "m *event"] | ArrayLike | Iterable[Tensor | ArrayLike],
        kernel: Kernel,
        *,
        ridge: float = 1e-6,
    ) -> MMD:
        r"""Make the divergence to the projection of a large target onto a few landmarks z: E_mu k(., y) as sum_l a_l k(., z_l).

        a = (K_zz + ridge I)^-1 mean_j k(z, y_j), solved in float64 once and for all (Nystrom; for a generator's loss arXiv
        2607.02375). A step then costs O(n (n + l)), however many samples the target has; the repulsion is exact. Weights may be
        negative. With all samples as landmarks it is the exact divergence, up to the ridge.

        Args:
            landmarks: z, such as centres of clusters of the target, [l, *event].
            target: samples y, [m, *event], or batches of them, which are read once.
            kernel: k.
            ridge: in units of the largest entry of K_zz.

        Raises:
            InputError: for samples of another shape, or a target without samples.

        Example:
            >>> import torch
            >>> from mmdflow import MMD, Gaussian
            >>> y = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
            >>> few = MMD.from_landmarks(y[:50], y, Gaussian(1.0))
            >>> bool((few(y) - MMD(y, Gaussian(1.0))(y)).abs() < 1e-4)
            True
        """
        landmarks = _checks.points("landmarks", landmarks)
        _checks.positive("ridge", ridge)
        z, count = landmarks.detach().double(), 0
        mean, wide = z.new_zeros(len(z)), deepcopy(require_kernel(kernel)).double()
        with torch.no_grad():
            for batch in [target] if _is_one(target) else target:
                y = _checks.points("target", batch, landmarks.shape[1:]).to(z)
                mean, count = mean + ops.kernel_sum(wide, z, y, y.new_ones(len(y))), count + len(y)
            if not count:
                raise InputError("target = []: must hold at least one sample")
            gram = wide(z, z)
            gram.diagonal().add_(ridge * gram.abs().max())
            weights = torch.linalg.solve(gram, mean / count)
            self = cls(landmarks, kernel)
            if kernel.finite:
                assert self.target_mean is not None
                exact = weights @ wide.embed(z)
                mean = exact.to(self.target_mean)
                self._keep_mean(mean, (exact - mean).to(mean))
            else:
                self.target_weights = weights.to(self.target_weights)
                self.target_self = (weights @ wide(z, z) @ weights).to(self.target_self)
        return self

    def _keep_mean(self, mean: Tensor, rest: Tensor) -> None:
        """Keep the target's mean embedding in two parts: itself, and what its rounding left out."""
        self.register_buffer("target_mean", mean)
        self.register_buffer("target_rest", rest)

    def wide(self, points: Tensor) -> Tensor:
        """Return points in the dtype in which their kernel is summed; those of networks stay as they are."""
        if not self.kernel.any_dtype:
            return points
        loses = self.kernel.grows and not self.kernel.finite and points.device.type != "mps"  # which has no float64
        return points.double() if loses else widened(points)

    def _scaled(self, weights: Tensor, wide: Tensor) -> Tensor:
        """Return weights in the dtype of sums; where that has more digits, their sum is made 1 to as many."""
        weights, given = weights.to(widened(wide)), weights.dtype
        return weights if weights.dtype == given else weights / weights.sum().detach()

    def _difference(self, psi: Tensor, weights: Tensor) -> Tensor:
        """Return E_nu psi(x) - E_mu psi(y), from differences to the target's mean: far away both means are large."""
        assert self.target_mean is not None
        return weights.to(self.target_mean) @ (psi - self.target_mean) - self.target_rest

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return 1/2 MMD^2 of the particles to the target, differentiable in x and the weights."""
        weights = uniform(widened(x), weights)
        if self.target_mean is not None:
            difference = self._difference(self.kernel.embed(x), weights)
            difference = difference.double() if leaves_range(difference) else difference
            return (difference.square().sum() / 2).to(x.dtype)
        with ops.within(self.tolerance):
            wide = self.wide(x)
            return self._pairwise(wide, self._scaled(weights, wide)).to(x.dtype)

    def _pairwise(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return F by sums over pairs, by the compiled backend where it takes them."""
        term = ops.compiled(self.kernel, x, self.target.to(x))
        if term is not None:
            need = torch.is_grad_enabled() and x.requires_grad
            value: Tensor = _Value.apply(x, weights, self, term, need)[0]
            return value
        return self._value(x, weights)

    def _value(self, x: Tensor, weights: Tensor) -> Tensor:
        attraction = ops.kernel_sum(self.kernel, x, self.target.to(x), self.target_weights.to(weights))
        repulsion = ops.kernel_sum(self.kernel, x, x, weights)
        return weights @ (repulsion / 2 - attraction) + self.target_self / 2

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return f = E_nu k(., x) - E_mu k(., y), frozen at the particles x."""
        with torch.no_grad():
            weights = uniform(widened(x), weights)
            if self.target_mean is not None:
                return EmbeddingWitness(self.kernel, self._difference(self.kernel.embed(x), weights))
            wide = self.wide(x)
            signed = torch.cat([self._scaled(weights, wide), -self.target_weights.to(widened(wide))])
            return KernelWitness(self.kernel, torch.cat([wide, self.wide(self.target)]), signed, self.tolerance)

    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return -grad f, with f frozen at x, evaluated at `at` (default x)."""
        if self.target_mean is None or at is not None:
            return super().velocity(x, at, weights)
        with torch.enable_grad():  # one evaluation of psi serves the particles' mean and the gradient
            z = x.detach().requires_grad_()
            psi = self.kernel.embed(z)
        direction = self._difference(psi.detach(), uniform(widened(z), weights).detach())
        return -torch.autograd.grad(psi, z, direction.to(psi.dtype).expand_as(psi))[0]


class _Value(torch.autograd.Function):
    """F of a kernel that a compiled backend sums, and its gradients from the same pass: w_i grad f(x_i) in x_i, f(x_i) in w_i.

    The gradients of these in turn come from the reference.
    """

    @staticmethod
    def forward(
        x: Tensor, weights: Tensor, divergence: MMD, term: Term, need: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        self_term, self_grad = ops.sums(term, x, x, weights, values=True, slopes=need)
        y, q = divergence.target.to(x), divergence.target_weights.to(weights)
        pull, pull_grad = ops.sums(term, x, y, q, values=True, slopes=need)
        value = weights @ (self_term / 2 - pull) + divergence.target_self / 2
        return value, self_term - pull, self_grad - pull_grad if need else None

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        x, weights, ctx.divergence = inputs[:3]
        ctx.mark_non_differentiable(*(t for t in output[1:] if t is not None))
        ctx.save_for_backward(x, weights, *output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weights, f, grad_f = ctx.saved_tensors
        to_x = to_weights = None
        if torch.is_grad_enabled():  # create_graph=True
            x, weights = x.view_as(x), weights.view_as(weights)  # one may be a function of the other
            inputs = [t for t, need in zip((x, weights), ctx.needs_input_grad, strict=False) if need]
            with ops.backend("reference"):
                value = ctx.divergence._value(x, weights)
            slopes = iter(torch.autograd.grad(value, inputs, upstream, create_graph=True))
            to_x, to_weights = (next(slopes) if need else None for need in ctx.needs_input_grad[:2])
        else:
            to_x = upstream * along(weights, x) * grad_f if ctx.needs_input_grad[0] else None
            to_weights = upstream * f if ctx.needs_input_grad[1] else None
        return to_x, to_weights, None, None, None


def _is_one(target: Any) -> bool:
    """Whether samples are one array, and no batches: a list of arrays is batches, a list of numbers or of lists an array."""
    if isinstance(target, list):  # an empty one is no batches
        return bool(target) and not any(
            isinstance(part, Tensor) or (_arrays.foreign(part) and not isinstance(part, list)) for part in target
        )
    return isinstance(target, Tensor) or _arrays.foreign(target)
