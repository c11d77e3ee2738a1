"""MMD-regularised f-divergences (Stein, Neumayer, Rux, Steidl 2025), the family that KALE and DrMMD belong to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.divergences.base import Divergence, check_solvable, require_kernel, uniform
from mmdflow.divergences.dual import Problem, State, guided, lbfgs
from mmdflow.divergences.entropy import entropy
from mmdflow.divergences.gram import DenseGram, GramOfTarget, SummedGram, kernel_sum
from mmdflow.divergences.low_rank import precise
from mmdflow.divergences.witness import KernelWitness, Witness
from mmdflow.errors import DivergedError
from mmdflow.kernels import Kernel
from mmdflow.types import ArrayLike, Step

#: Solver -> its name in messages, iterations at most and tolerance in float64, by default.
SOLVERS = {"newton": ("Newton", 100, 1e-10), "lbfgs": ("L-BFGS", 5000, 1e-6)}


@dataclass(frozen=True)
class DualSolution:
    """The optimum at some particles.

    Attributes:
        weights: a on the target's points, [m]: the measure sigma that is nearest; q_i (f*)'(h(y_i)) at the optimum.
        gap: the duality gap that is left, at least 0 up to rounding.
        iterations: steps made.
    """

    weights: Float[Tensor, " m"]
    gap: float
    iterations: int


class FDivergence(Divergence):
    r"""F = min_sigma D_f(sigma | mu) + 1/(2 lambda) MMD^2(sigma, nu), over measures sigma on the target's points.

    Its dual is max_h E_nu h - E_mu f*(h) - lambda/2 |h|^2 in the kernel's space, h = (1/lambda) (m_nu - m_sigma) is the
    witness, and at the optimum sigma has density (f*)'(h). F tends to D_f as lambda -> 0 and lambda F to 1/2 MMD^2 as
    lambda -> inf.

    The dual variables are found by damped Newton steps: on the weights of sigma, taken multiplicatively, where f is steep at 0
    (KL, reverse KL, Jeffreys, Tsallis with alpha < 1), and semi-smoothly on h where densities may vanish (chi^2, Tsallis with
    alpha > 1). They start from the last solution and go on until nothing moves, so that results do not depend on it. Up to 1000
    target points the Gram matrix is held, O(m^3) a step. Above, a low-rank factor of r <= 1000 rows stands for it, O(m r^2) a
    step, and what it leaves is made up by conjugate gradients on sums over pairs: memory is O(m r), and the duality gap is that
    of the true problem. Inside ``ops.backend("fast", tolerance)`` these sums are taken to 1e-11 in O(m log m), where the kernel
    has such sums. Or the variables are found by L-BFGS from a neutral start, O(m^2) a step, whose results are within the
    tolerance. Systems are solved in float64, whatever the points' type.

    Args:
        target: samples y, [m, *event].
        kernel: the kernel k, positive definite.
        regularization: lambda, positive.
        divergence: "kl", "reverse-kl", "jeffreys", "chi2" or "tsallis".
        alpha: of "tsallis", positive; 1 is KL, 2 is chi^2.
        target_weights: of the target's samples, [m]; 1/m each by default. Points of weight 0 are left out.
        solver: "newton" or "lbfgs".
        tolerance: of the duality gap, relative to 1 + D_f(sigma | mu) and above what rounding leaves of it,
            8 eps |m_nu|^2 / lambda; by default 1e-10 for Newton and 1e-6 for L-BFGS in float64, 1e-4 in float32.
        max_iterations: steps at most; by default 100 for Newton, 5000 for L-BFGS.

    Raises:
        InputError: for a bad target or settings, or a kernel that is not positive definite.
        DivergedError: when the gap stays above the tolerance; says the gap and what to change.

    Example:
        >>> import torch
        >>> from mmdflow import KALE, FDivergence, Gaussian
        >>> y, x = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.5]]).double()
        >>> kl, kale = FDivergence(y, Gaussian(1.0), 0.1, "kl"), KALE(y, Gaussian(1.0), 0.1)
        >>> bool((1.1 * kl(x) - kale(x)).abs() < 1e-9)
        True
    """

    target: Tensor
    target_weights: Tensor

    def __init__(
        self,
        target: Float[Tensor, "m *event"] | ArrayLike,
        kernel: Kernel,
        regularization: float,
        divergence: str = "kl",
        *,
        alpha: float | None = None,
        target_weights: Float[Tensor, " m"] | ArrayLike | None = None,
        solver: str = "newton",
        tolerance: float | None = None,
        max_iterations: int | None = None,
    ) -> None:
        super().__init__()
        target = check_solvable(_checks.points("target", target).detach())
        weights = _checks.weights("target_weights", target_weights, target)
        self.kernel, self.event_shape = require_kernel(kernel, positive=True), tuple(target.shape[1:])
        self.regularization = _checks.positive("regularization", regularization)
        self.entropy = entropy(divergence, alpha)
        self.solver = _checks.choice("solver", solver, SOLVERS)
        default = SOLVERS[solver][2] if target.dtype == torch.float64 else 1e-4
        self.tolerance = default if tolerance is None else _checks.positive("tolerance", tolerance)
        self.max_iterations = (
            SOLVERS[solver][1] if max_iterations is None else _checks.count("max_iterations", max_iterations)
        )
        self.register_buffer("target", target[weights > 0])
        self.register_buffer("target_weights", weights[weights > 0])
        self._last: Tensor | None = None
        self._gram = GramOfTarget(kernel)
        self._gram(self.target, self.regularization)

    @property
    def scale(self) -> float:
        """What the published divergence multiplies F by."""
        return 1.0

    @property
    def gram(self) -> DenseGram | SummedGram:
        """The target's Gram matrix."""
        return self._gram(self.target, self.regularization)

    def usual_step(self) -> Step | None:
        """Return width^2 / k(0) lambda."""
        flatness = self.kernel.flatness
        return None if flatness is None else Step(flatness * self.regularization)

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F at the particles x; its gradient is that with the optimal sigma held fixed (envelope theorem)."""
        weights = uniform(x, weights)
        problem = self._problem(x, weights)
        self_term = precise(weights) @ kernel_sum(self.kernel, x, x, weights)
        with torch.no_grad():
            state, _ = self._solve(problem)
            # K weights from K a
            image = state.image if state.pulled is None else state.image - self.regularization * state.pulled
        value = problem.primal(state.weights, image) + self_term / (2 * self.regularization)
        return self.scale * value.to(x.dtype)

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return the first variation h of F, frozen at the particles x."""
        with torch.no_grad():
            weights = uniform(x, weights)
            state, _ = self._solve(self._problem(x, weights))
            signed = torch.cat([precise(weights), -state.weights]) * (self.scale / self.regularization)
            return KernelWitness(self.kernel, torch.cat([x, self.target]), signed.to(x.dtype))

    @torch.no_grad()
    def solve(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> DualSolution:
        """Solve the dual at the particles x."""
        state, iterations = self._solve(self._problem(x, uniform(x, weights)))
        return DualSolution(state.weights.to(self.target_weights), state.gap, iterations)

    def _problem(self, x: Tensor, weights: Tensor) -> Problem:
        towards = kernel_sum(self.kernel, self.target, x, weights)
        return Problem(self.entropy, self.gram, precise(self.target_weights), towards, self.regularization)

    def _solve(self, problem: Problem) -> tuple[State, int]:
        problem = replace(problem, towards=problem.towards.detach())
        if self.solver == "lbfgs":
            state, iterations = lbfgs(problem, problem.q, self.tolerance, self.max_iterations)
        else:
            state, iterations = self._newton(problem)
        if not problem.solved(state, self.tolerance):
            raise DivergedError(
                f"{type(self).__name__} did not converge in {iterations} {SOLVERS[self.solver][0]} steps (duality gap "
                f"{state.gap:.2e}, tolerance {self.tolerance:.0e}): raise regularization ({self.regularization:g}), use "
                f"float64, or raise max_iterations"
            )
        self._last = state.weights
        return state, iterations

    def _newton(self, problem: Problem) -> tuple[State, int]:
        """Solve from the last solution, or else from a neutral start, and then by a coarse factor first."""
        gram = problem.gram
        models = [gram.coarse, gram.model] if isinstance(gram, SummedGram) else []
        if self._last is not None:
            warm = guided(problem, self._last.to(problem.q), self.tolerance, self.max_iterations, models[1:])
            if problem.solved(warm[0], self.tolerance):
                return warm
        return guided(problem, problem.q, self.tolerance, self.max_iterations, models)
