"""The (de)regularised MMD (Chen, Mustafi, Glaser, Korba, Gretton, Sriperumbudur, JMLR 2025)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow._tensors import device_of
from mmdflow.divergences import gram
from mmdflow.divergences.base import Divergence, check_solvable, require_kernel, uniform
from mmdflow.divergences.low_rank import Woodbury, precise
from mmdflow.divergences.witness import KernelWitness, Witness
from mmdflow.errors import DivergedError, InputError
from mmdflow.kernels import Kernel
from mmdflow.types import ArrayLike, Step

#: By default, targets of more points are projected on landmarks; and on how many.
EXACT_POINTS, DEFAULT_LANDMARKS = 5000, 1000
#: The relative residual at which conjugate gradients end.
ACCURACY = 1e-12


class DrMMD(Divergence):
    r"""F = (1 + lambda) |(Sigma_mu + lambda I)^(-1/2) (m_nu - m_mu)|^2: chi^2 as lambda -> 0, MMD^2 as lambda -> inf.

    With q the target's weights, delta(y) = mean_i k(y, x_i) - mean_j k(y, y_j), v = q^(1/2) delta(y), M = q^(1/2) K_yy q^(1/2):
    F = ((1 + lambda) / lambda) [ MMD^2 - v^T (M + lambda I)^-1 v ], and the witness is
    (2 (1 + lambda) / lambda) [ kbar_x(z) - kbar_y(z) - k(z, Y) q^(1/2) (M + lambda I)^-1 v ].
    Up to 1000 points M + lambda I is factorised once by Cholesky, O(m^3). Above, systems are solved by conjugate gradients on
    sums over pairs, in float64, with a low-rank factor of r <= 1000 rows as preconditioner: O(m r^2) once and O(m r) memory. A
    velocity costs O((n + m)^2), and less inside ``ops.backend("fast", tolerance)``, where the kernel has such sums.

    With landmarks, Sigma_mu is replaced by its compression to the span of k(., landmarks) (Nystrom): the formulas then hold with
    the landmarks' features in place of the target's, F stays a squared norm, and the set-up costs O(m p^2). What of m_nu - m_mu
    lies outside that span counts 1 / lambda times: for small lambda F is larger than the exact one and its limit is not chi^2, so
    take more landmarks, or a wider kernel, until F no longer changes.

    Args:
        target: samples y, [m, *event].
        kernel: the kernel k, positive definite.
        regularization: lambda, positive. It may be set again later; of factorised matrices the second time on an
            eigendecomposition is used, after which every lambda costs O(m^2).
        num_landmarks: p, random points of the target. By default all m up to 5000 points (exact), 1000 above. m itself is exact
            at any size.
        target_weights: of the target's samples, [m]; 1/m each by default.
        generator: of the choice of landmarks.

    Attributes:
        jitter: what was added to the diagonal of the landmarks' Gram matrix, the least power of ten times the precision at which
            it factorises; 0 without landmarks.

    Raises:
        InputError: for a bad target or regularisation, or a Gram matrix that is not positive definite in this precision.
        DivergedError: when conjugate gradients do not converge; says the residual and what to change.

    Example:
        >>> import torch
        >>> from mmdflow import DrMMD, Gaussian, flow
        >>> target = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> result = flow(DrMMD(target, Gaussian(1.0), 0.1), target + 1, step_size=0.05, num_steps=50)
        >>> bool(result.values[-1] < 0.1 * result.values[0])
        True
    """

    target: Tensor
    target_weights: Tensor
    landmarks: Tensor
    mean: Tensor
    target_self: Tensor
    factor: Tensor
    root: Tensor

    def __init__(
        self,
        target: Float[Tensor, "m *event"] | ArrayLike,
        kernel: Kernel,
        regularization: float,
        *,
        num_landmarks: int | None = None,
        target_weights: Float[Tensor, " m"] | ArrayLike | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        target = check_solvable(_checks.points("target", target).detach())
        weights = _checks.weights("target_weights", target_weights, target)
        self.kernel, self.event_shape = require_kernel(kernel, positive=True), tuple(target.shape[1:])
        if num_landmarks is None:
            num_landmarks = len(target) if len(target) <= EXACT_POINTS else DEFAULT_LANDMARKS
        elif _checks.count("num_landmarks", num_landmarks) > len(target):
            raise InputError(f"num_landmarks = {num_landmarks}: must be at most the target's {len(target)} points")
        self.exact = num_landmarks == len(target)
        self.by_sums = self.exact and len(target) > gram.DENSE_POINTS
        self.jitter = 0.0
        self.register_buffer("target", target)
        self.register_buffer("target_weights", weights)
        with torch.no_grad():
            if self.exact:
                self.register_buffer("landmarks", target)
                self.register_buffer("root", weights.sqrt())
            else:
                order = torch.randperm(len(target), generator=generator, device=device_of(generator))
                self.register_buffer("landmarks", target[order[:num_landmarks].to(target.device)])
                root, self.jitter = _root(kernel(self.landmarks, self.landmarks))
                self.register_buffer("root", root)
            self.register_buffer("mean", self._sum(self.landmarks, target, weights))
            of_target = self.mean if self.exact else self._sum(target, target, weights)
            self.register_buffer("target_self", weights.to(of_target) @ of_target)
        self._gram, self._near = gram.GramOfTarget(kernel), _Preconditioners()
        self._spectrum: tuple[Tensor, Tensor] | None = None
        self._regularization = 0.0
        self.regularization = regularization

    @property
    def regularization(self) -> float:
        """Lambda."""
        return self._regularization

    @regularization.setter
    def regularization(self, value: float) -> None:
        first = self._regularization == 0
        self._regularization = _checks.positive("regularization", value)
        if self.by_sums:
            self._gram(self.target, value)
            return
        with torch.no_grad():
            if first:
                shifted = self._covariance()
                shifted.diagonal().add_(self._regularization)
                factor, info = torch.linalg.cholesky_ex(shifted)
                if int(info):
                    raise InputError(
                        f"regularization = {value:g}: the regularised Gram matrix of {len(shifted)} points is not positive "
                        f"definite in {shifted.dtype}; raise it, or use float64"
                    )
                self.register_buffer("factor", factor)
            elif self._spectrum is None:
                values, vectors = torch.linalg.eigh(self._covariance())
                self._spectrum = values.clamp_min(0), vectors

    def _covariance(self) -> Tensor:
        """Return Sigma_mu in the coordinates of the landmarks (with all points: of the target)."""
        if self.exact:
            return self.root[:, None] * self.kernel(self.target, self.target) * self.root
        features = torch.linalg.solve_triangular(self.root, self.kernel(self.landmarks, self.target), upper=False)
        return (features * self.target_weights) @ features.T

    def usual_step(self) -> Step | None:
        """Return width^2 / k(0) lambda / (1 + lambda) / 2, half of that of KALE."""
        flatness, ridge = self.kernel.flatness, self.regularization
        return None if flatness is None else Step(flatness * ridge / (1 + ridge) / 2)

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F at the particles x, differentiable in x and the weights."""
        weights = uniform(x, weights)
        on_landmarks = self._sum(self.landmarks, x, weights)
        on_target = on_landmarks if self.exact else self._sum(self.target, x, weights)
        of_particles = self._sum(x, x, weights)
        self_term = weights.to(of_particles) @ of_particles
        mmd2 = self_term - 2 * self.target_weights.to(on_target) @ on_target + self.target_self
        gap = on_landmarks - self.mean
        value = (1 + self.regularization) / self.regularization * (mmd2 - gap @ self._correction(gap))
        return value.to(x.dtype)

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return the first variation of F, frozen at the particles x."""
        with torch.no_grad():
            weights = uniform(x, weights)
            correction = self._correction(self._sum(self.landmarks, x, weights) - self.mean).to(weights)
            scale = 2 * (1 + self.regularization) / self.regularization
            if self.exact:
                points, signed = [x, self.target], [weights, -self.target_weights - correction]
            else:
                points, signed = [x, self.target, self.landmarks], [weights, -self.target_weights, -correction]
            return KernelWitness(self.kernel, torch.cat(points), scale * torch.cat(signed))

    def _sum(self, z: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_j k(z_i, points_j), in float64 where the systems are solved in it."""
        if self.by_sums:
            return gram.kernel_sum(self.kernel, z, points, weights)
        with ops.tightened(gram.SUM_TOLERANCE):
            return ops.kernel_sum(self.kernel, z, points, weights)

    def _correction(self, gap: Tensor) -> Tensor:
        """Return the weights on the landmarks that the covariance takes off the witness, given delta there."""
        if self.by_sums:
            corrected: Tensor = _Symmetric.apply(gap, self._by_conjugate_gradients)
            return corrected
        if self.exact:
            return self.root * self._solve(self.root * gap)
        features = torch.linalg.solve_triangular(self.root, gap[:, None], upper=False)[:, 0]
        shrunk = features - self.regularization * self._solve(features)  # C (C + lambda I)^-1 features
        return torch.linalg.solve_triangular(self.root.T, shrunk[:, None], upper=True)[:, 0]

    def _by_conjugate_gradients(self, gap: Tensor) -> Tensor:
        """Return q^(1/2) (M + lambda I)^-1 q^(1/2) gap."""
        matrix, scale = self._gram(self.target, self.regularization), math.sqrt(self.regularization)
        assert isinstance(matrix, gram.SummedGram)
        root = precise(self.target_weights).sqrt()
        solution, relative = matrix.solve_by(self._near.of(matrix, root / scale), root * gap, ACCURACY)
        if not relative <= math.sqrt(ACCURACY):
            raise DivergedError(
                f"DrMMD: conjugate gradients did not converge in {gram.MAX_STEPS} steps (relative residual {relative:.1e}): "
                f"raise regularization ({self.regularization:g}), or give num_landmarks"
            )
        return root * solution / self.regularization

    def _solve(self, v: Tensor) -> Tensor:
        """Return (C + lambda I)^-1 v."""
        if self._spectrum is None:
            return torch.cholesky_solve(v[:, None], self.factor)[:, 0]
        values, vectors = (part.to(v) for part in self._spectrum)
        return vectors @ ((vectors.T @ v) / (values + self.regularization))


class _Symmetric(torch.autograd.Function):
    """A symmetric linear map of a vector, which is its own derivative."""

    @staticmethod
    def forward(v: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return _Symmetric.apply(upstream, ctx.function), None


class _Preconditioners:
    """The last preconditioner, which holds until the matrix or lambda change."""

    def __init__(self) -> None:
        self._last: tuple[gram.SummedGram, Woodbury] | None = None

    def of(self, matrix: gram.SummedGram, root: Tensor) -> Woodbury:
        """Return that of I + S K S with S = diag(root)."""
        if self._last is None or self._last[0] is not matrix or not torch.equal(self._last[1].root, root):
            self._last = matrix, Woodbury.of(matrix.model.factor, root)
        return self._last[1]


def _root(matrix: Tensor) -> tuple[Tensor, float]:
    """Return the Cholesky factor of a Gram matrix with as little jitter on its diagonal as it takes, and that jitter."""
    jitter = 10 * torch.finfo(matrix.dtype).eps * float(matrix.diagonal().mean())
    for _ in range(8):
        factor, info = torch.linalg.cholesky_ex(
            matrix + jitter * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        )
        if not int(info):
            return factor, jitter
        jitter *= 10
    raise InputError(
        f"num_landmarks = {len(matrix)}: the landmarks' Gram matrix does not factorise in {matrix.dtype}; use fewer, or float64"
    )


class AdaptiveRegularization:
    """A callback of `flow` that lowers DrMMD's lambda with its value: lambda_t = lambda_0 (F_t / F_0)^(1/2).

    (Chen et al. 2025, section 5.) The values of a flow are then those of the lambda of their step.

    Args:
        divergence: the DrMMD that flows; its regularization is set at every step and stays at the last one. lambda_0 is what it
            is now.
        minimum: lambda is not lowered beyond; at most lambda_0.

    Example:
        >>> import torch
        >>> from mmdflow import DrMMD, Gaussian, flow
        >>> target = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> divergence = DrMMD(target, Gaussian(1.0), 1.0)
        >>> adapt = AdaptiveRegularization(divergence, minimum=1e-3)
        >>> _ = flow(divergence, target + 1, step_size=0.1, num_steps=20, callback=adapt)
        >>> divergence.regularization < 1.0
        True
    """

    def __init__(self, divergence: DrMMD, minimum: float) -> None:
        self.divergence = divergence
        self.initial = divergence.regularization
        self.minimum = _checks.interval("minimum", minimum, 0.0, self.initial, "(]")
        self.history: list[float] = []
        self._first = math.nan

    def start(self, particles: Tensor, weights: Tensor | None) -> None:
        """Begin a flow: from lambda_0."""
        if weights is not None:
            raise InputError("weights with AdaptiveRegularization: must be None; it follows equally weighted particles")
        self.divergence.regularization = self.initial
        self.history = []
        self._first = max(0.0, float(self.divergence(particles)))

    def __call__(self, step: int, particles: Tensor) -> None:
        """Set lambda for the next step."""
        value = max(0.0, float(self.divergence(particles)))
        ratio = value / self._first if self._first > 0 else 0.0
        self.divergence.regularization = max(self.minimum, self.initial * min(1.0, math.sqrt(ratio)))
        self.history.append(self.divergence.regularization)

    def report(self) -> dict[str, list[float]]:
        """Return lambda after every step."""
        return {"regularization": list(self.history)}
