"""MMD-regularised f-divergences (Stein, Neumayer, Rux, Steidl 2025), the family that KALE and DrMMD belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow.divergences.base import Divergence, check_solvable, require_kernel, uniform
from mmdflow.divergences.entropy import Entropy, entropy
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

    The dual variables are found by damped Newton steps, O(m^3) each: on the weights of sigma, taken multiplicatively, where f is
    steep at 0 (KL, reverse KL, Jeffreys, Tsallis with alpha < 1), and semi-smoothly on h where densities may vanish (chi^2,
    Tsallis with alpha > 1); or by L-BFGS, O(m^2) a step. Both start from the last solution.

    Args:
        target: samples y, [m, *event].
        kernel: the kernel k, positive definite.
        regularization: lambda, positive.
        divergence: "kl", "reverse-kl", "jeffreys", "chi2" or "tsallis".
        alpha: of "tsallis", positive; 1 is KL, 2 is chi^2.
        target_weights: of the target's samples, [m]; 1/m each by default. Points of weight 0 are left out.
        solver: "newton" or "lbfgs".
        tolerance: of the duality gap, relative to 1 + |F| (before a published scale) and above what rounding leaves of it,
            8 eps |m_nu|^2 / lambda; by default 1e-10 for Newton and 1e-6 for L-BFGS in float64, 1e-4 in float32.
        max_iterations: steps at most; by default 100 for Newton, 5000 for L-BFGS.

    Raises:
        InputError: for a bad target or settings, or a kernel that is not positive definite.
        DivergedError: when the gap stays above the tolerance; says the gap and what to change.
    """

    target: Tensor
    target_weights: Tensor
    gram: Tensor

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
        with torch.no_grad():
            self.register_buffer("gram", kernel(self.target, self.target))
        self._last: Tensor | None = None

    @property
    def scale(self) -> float:
        """What the published divergence multiplies F by."""
        return 1.0

    def usual_step(self) -> Step | None:
        """Return width^2 lambda."""
        width = self.kernel.width
        return None if width is None else Step(width**2 * self.regularization)

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F at the particles x; its gradient is that with the optimal sigma held fixed (envelope theorem)."""
        problem = _Problem.at(self, x, uniform(x, weights))
        return self.scale * problem.primal(self._solve(problem).weights)

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return the first variation h of F, frozen at the particles x."""
        with torch.no_grad():
            weights = uniform(x, weights)
            signed = torch.cat([weights, -self.solve(x, weights).weights]) * (self.scale / self.regularization)
            return KernelWitness(self.kernel, torch.cat([x, self.target]), signed)

    @torch.no_grad()
    def solve(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> DualSolution:
        """Solve the dual at the particles x."""
        return self._solve(_Problem.at(self, x, uniform(x, weights)))

    @torch.no_grad()
    def _solve(self, problem: _Problem) -> DualSolution:
        problem = replace(problem, towards=problem.towards.detach(), self_term=problem.self_term.detach())
        start = self.target_weights if self._last is None else self._last.to(self.target_weights)
        solve = _lbfgs if self.solver == "lbfgs" else _newton
        solution = solve(problem, start.clone(), self.tolerance, self.max_iterations)
        if not problem.solved(solution, self.tolerance) and self._last is not None:  # once more from a neutral start
            solution = solve(problem, self.target_weights.clone(), self.tolerance, self.max_iterations)
        if not problem.solved(solution, self.tolerance):
            raise DivergedError(
                f"{type(self).__name__} did not converge in {solution.iterations} {SOLVERS[self.solver][0]} steps (duality gap "
                f"{solution.gap:.2e}, tolerance {self.tolerance:.0e}): raise regularization ({self.regularization:g}), use "
                f"float64, or raise max_iterations"
            )
        self._last = solution.weights
        return solution


@dataclass(frozen=True)
class _Problem:
    """min over a >= 0 of sum q f(a/q) + 1/(2 lambda) (a^T K a - 2 a^T t + self_term), with t = m_nu on the target."""

    entropy: Entropy
    gram: Tensor
    q: Tensor
    towards: Tensor
    self_term: Tensor
    regularization: float

    @staticmethod
    def at(divergence: FDivergence, x: Tensor, weights: Tensor) -> _Problem:
        towards = ops.kernel_sum(divergence.kernel, divergence.target, x, weights)
        self_term = weights @ ops.kernel_sum(divergence.kernel, x, x, weights)
        q = divergence.target_weights
        return _Problem(divergence.entropy, divergence.gram, q, towards, self_term, divergence.regularization)

    def primal(self, a: Tensor) -> Tensor:
        distance = a @ (self.gram @ a) - 2 * a @ self.towards + self.self_term
        return self.q @ self.entropy.value(a / self.q) + distance / (2 * self.regularization)

    def witness(self, a: Tensor) -> Tensor:
        """Return h on the target."""
        return (self.towards - self.gram @ a) / self.regularization

    def dual(self, a: Tensor) -> Tensor:
        """Return the dual value of the h that a stands for: a lower bound of the optimum; -inf where h leaves its domain."""
        norm = (self.self_term - a @ (self.gram @ a)) / (2 * self.regularization)
        return norm - self.q @ self.entropy.conjugate(self.witness(a))

    def allowed(self, a: Tensor, tolerance: float) -> float:
        """Return the gap up to which a counts as the solution."""
        rounding = 8 * torch.finfo(a.dtype).eps * float(self.self_term.abs()) / self.regularization
        return tolerance * (1 + abs(float(self.primal(a)))) + rounding

    def solved(self, solution: DualSolution, tolerance: float) -> bool:
        """Whether the gap is small, and not below 0 by more than rounding (as with kernels that are not positive definite)."""
        return math.isfinite(solution.gap) and abs(solution.gap) <= self.allowed(solution.weights, tolerance)

    def exact(self, solution: DualSolution) -> bool:
        """Whether the gap is what rounding alone leaves."""
        return self.solved(solution, 16 * torch.finfo(solution.weights.dtype).eps)

    def polished(self, a: Tensor) -> Tensor:
        """Return the weights that optimality gives for the h of a."""
        return self.q * self.entropy.density(self.witness(a))

    def solution(self, a: Tensor, iterations: int) -> DualSolution:
        """Return the weights that a stands for, with their gap to the h of a: a itself where f is steep, else polished."""
        weights = a if self.entropy.steep else self.polished(a)
        gap = float(self.primal(weights) - self.dual(a))
        return DualSolution(weights, gap if math.isfinite(gap) else math.inf, iterations)

    def newton_solve(self, root: Tensor, right: Tensor) -> Tensor:
        """Return (I + S K S / lambda)^-1 right with S = diag(root)."""
        inner = root[:, None] * self.gram * root[None, :] / self.regularization
        inner.diagonal().add_(1)
        return torch.linalg.solve(inner, right)


def _newton(problem: _Problem, a: Tensor, tolerance: float, max_iterations: int) -> DualSolution:
    """Newton steps until the duality gap is small, and one more: the gap is the square of the error in a."""
    step = _multiplicative_step if problem.entropy.steep else _semismooth_step
    solution = problem.solution(a, 0)
    for iteration in range(1, max_iterations + 1):
        if problem.solved(solution, tolerance):
            break
        a = step(problem, a)
        solution = problem.solution(a, iteration)
    if not problem.solved(solution, tolerance):
        return solution
    final = problem.solution(step(problem, a), solution.iterations + 1)
    return final if abs(final.gap) <= abs(solution.gap) or problem.exact(final) else solution


def _multiplicative_step(problem: _Problem, a: Tensor) -> Tensor:
    """Return a after one damped Newton step that does not raise the primal.

    The step is taken multiplicatively, a exp(step / a): to first order the same, always positive, and it reaches the tiny
    weights exp(-|h|) of points that h drives far down at once instead of by a bounded factor a step.
    """
    f, q, value = problem.entropy, problem.q, problem.primal(a)
    gradient = f.slope(a / q) - problem.witness(a)
    # the Hessian diag(c) + K/lambda is S^-1 (I + S K S / lambda) S^-1 with S = diag(c^-1/2)
    root = (f.curvature(a / q) / q).rsqrt()
    step = -root * problem.newton_solve(root, root * gradient)
    rate, tiny, size = step / a, 1e3 * torch.finfo(a.dtype).tiny, 1.0
    slope = float(gradient @ step)
    if -slope < math.sqrt(torch.finfo(a.dtype).eps) * (1 + abs(float(value))):
        # the decrease is below what the value resolves; Newton converges quadratically here
        return (a * torch.exp(rate)).clamp_min(tiny)
    slack = 4 * torch.finfo(a.dtype).eps * abs(float(value))
    for _ in range(40):
        candidate = (a * torch.exp(size * rate)).clamp_min(tiny)
        if float(problem.primal(candidate) - value) <= 1e-4 * size * slope + slack:
            return candidate
        size /= 2
    return a


def _semismooth_step(problem: _Problem, c: Tensor) -> Tensor:
    """Return c, which stands for h, after one damped Newton step on c = q (f*)'(h_c) that does not lower the dual."""
    f, value = problem.entropy, problem.dual(c)
    h = problem.witness(c)
    density = f.density(h)
    residual = c - problem.q * density
    active = density > 0
    safe = torch.where(active, density, torch.ones_like(density))
    root = torch.where(active, (problem.q / f.curvature(safe)).sqrt(), torch.zeros_like(density))
    # (I + D K / lambda)^-1 = I - S (I + S K S / lambda)^-1 S K / lambda with S = D^1/2
    pulled = problem.gram @ residual / problem.regularization
    step = root * problem.newton_solve(root, root * pulled) - residual
    slope = float(-(pulled @ step))
    size, slack = 1.0, 8 * torch.finfo(c.dtype).eps * (1 + abs(float(value)))
    for _ in range(40):
        candidate = c + size * step
        if float(value - problem.dual(candidate)) <= -1e-4 * size * slope + slack:
            return candidate
        size /= 2
    return c


def _lbfgs(problem: _Problem, start: Tensor, tolerance: float, max_iterations: int) -> DualSolution:
    """L-BFGS on log(a / q) where f is steep, else on the dual; in rounds, until the duality gap is small."""
    steep = problem.entropy.steep
    z = torch.log(start / problem.q) if steep else start

    def weights() -> Tensor:
        return problem.q * torch.exp(z) if steep else z

    def closure() -> float:
        a = weights()
        if steep:
            z.grad = a * (problem.entropy.slope(a / problem.q) - problem.witness(a))
            return float(problem.primal(a))
        z.grad = problem.gram @ (a - problem.polished(a)) / problem.regularization
        return float(-problem.dual(a))

    for iteration in range(0, max_iterations, 25):
        # a fresh optimiser a round: it stops by itself where its line search no longer resolves the value
        optimizer = torch.optim.LBFGS(
            [z], max_iter=25, history_size=25, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
        )
        optimizer.step(closure)
        solution = problem.solution(weights(), iteration + 25)
        if problem.solved(solution, tolerance):
            break
    return solution
