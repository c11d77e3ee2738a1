"""The finite problem behind MMD-regularised f-divergences, and its solvers: damped Newton steps and L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmdflow.divergences.entropy import Entropy
from mmdflow.divergences.gram import Gram

#: The Newton decrement at which steps end: the next step would move the weights by the square of its root.
SETTLED = 1e-12
#: Steps at most after the gap is small.
EXTRA = 4


@dataclass(frozen=True)
class State:
    """What a solver knows at the vector that it moves.

    Attributes:
        a: that vector, [m]: the weights themselves where f is steep at 0, else what stands for h = (t - K a) / lambda.
        image: K a.
        weights: the measure on the target's points that counts, [m].
        pulled: K (a - weights) / lambda; None where a is the weights.
        gap: the duality gap between the weights and h.
    """

    a: Tensor
    image: Tensor
    weights: Tensor
    pulled: Tensor | None
    gap: float


@dataclass(frozen=True)
class Problem:
    """min over a >= 0 of sum q f(a/q) + 1/(2 lambda) (a^T K a - 2 a^T t), with t = m_nu on the target.

    It is the divergence less 1/(2 lambda) |m_nu|^2. Its dual is the largest -1/(2 lambda) a^T K a - sum q f*(h) over all a, with
    h = (t - K a) / lambda.
    """

    entropy: Entropy
    gram: Gram
    q: Tensor
    towards: Tensor
    regularization: float

    def state(self, a: Tensor, image: Tensor | None = None) -> State:
        """Return what is known at a, of which K a may be given.

        Where a is the weights, the gap is that of Fenchel and Young, sum q (f(r) + f*(h) - r h) with r = a / q. Where they are
        q (f*)'(h), it is 1/2 |m_weights - m_a|^2 / lambda.
        """
        image = self.gram.product(a) if image is None else image
        h = self.witness(image)
        if self.entropy.steep:
            gap = float(self.q @ (self.entropy.value(a / self.q) + self.entropy.conjugate(h)) - a @ h)
            return State(a, image, a, None, gap if math.isfinite(gap) else math.inf)
        weights = self.q * self.entropy.density(h)
        pulled = self.gram.product(a - weights) / self.regularization
        gap = float((a - weights) @ pulled) / 2
        return State(a, image, weights, pulled, gap if math.isfinite(gap) else math.inf)

    def witness(self, image: Tensor) -> Tensor:
        """Return h on the target."""
        return (self.towards - image) / self.regularization

    def primal(self, a: Tensor, image: Tensor) -> Tensor:
        """Return what is minimised."""
        distance = a @ image - 2 * a @ self.towards
        return self.q @ self.entropy.value(a / self.q) + distance / (2 * self.regularization)

    def dual(self, a: Tensor, image: Tensor) -> Tensor:
        """Return the dual value of the h that a stands for: a lower bound of the optimum; -inf where h leaves its domain."""
        return -(a @ image) / (2 * self.regularization) - self.q @ self.entropy.conjugate(self.witness(image))

    def allowed(self, state: State, tolerance: float) -> float:
        """Return the gap up to which a state counts as the solution."""
        size = float(torch.maximum(state.a @ state.image, state.weights @ self.towards).abs())
        entropy = float(self.q @ self.entropy.value(state.weights / self.q))
        return tolerance * (1 + abs(entropy)) + 8 * self.gram.eps * size / self.regularization

    def solved(self, state: State, tolerance: float) -> bool:
        """Whether the gap is small, and not below 0 by more than rounding (as with kernels that are not positive definite)."""
        return math.isfinite(state.gap) and abs(state.gap) <= self.allowed(state, tolerance)

    def newton_solve(self, root: Tensor, right: Tensor, gap: float) -> Tensor:
        """Return (I + S K S / lambda)^-1 right with S = diag(root), the more accurate the smaller the gap."""
        accuracy = min(1e-2, max(1e-7, math.sqrt(abs(gap))))
        return self.gram.solve(root / math.sqrt(self.regularization), right, accuracy)


def newton(problem: Problem, start: Tensor, tolerance: float, max_iterations: int) -> tuple[State, int]:
    """Return the state after Newton steps, and their number.

    They go on past the tolerance until nothing moves, so that the result does not tell where they began: the gap is the square of
    the error in the weights.
    """
    step = _multiplicative_step if problem.entropy.steep else _semismooth_step
    state, after = problem.state(start), 0
    for iteration in range(1, max_iterations + 1):
        solved = problem.solved(state, tolerance)
        candidate, decrement = step(problem, state)
        if solved and abs(candidate.gap) > max(abs(state.gap), problem.allowed(state, 16 * problem.gram.eps)):
            return state, iteration
        stuck = candidate is state
        state, after = candidate, after + solved
        if stuck or after == EXTRA or (decrement <= SETTLED and problem.solved(state, tolerance)):
            return state, iteration
    return state, max_iterations


def _multiplicative_step(problem: Problem, state: State) -> tuple[State, float]:
    """Return the state after one damped Newton step that does not raise the primal, and the decrement.

    The step is taken multiplicatively, a exp(step / a): to first order the same, always positive, and it reaches the tiny
    weights exp(-|h|) of points that h drives far down at once instead of by a bounded factor a step.
    """
    f, q, a = problem.entropy, problem.q, state.a
    value = problem.primal(a, state.image)
    gradient = f.slope(a / q) - problem.witness(state.image)
    # the Hessian diag(c) + K/lambda is S^-1 (I + S K S / lambda) S^-1 with S = diag(c^-1/2)
    root = (f.curvature(a / q) / q).rsqrt()
    step = -root * problem.newton_solve(root, root * gradient, state.gap)
    rate, tiny, size = step / a, 1e3 * torch.finfo(a.dtype).tiny, 1.0
    slope = float(gradient @ step)
    if -slope < math.sqrt(torch.finfo(a.dtype).eps) * (1 + abs(float(value))):
        # the decrease is below what the value resolves; Newton converges quadratically here
        return problem.state((a * torch.exp(rate)).clamp_min(tiny)), -slope
    slack = 4 * torch.finfo(a.dtype).eps * abs(float(value))
    for _ in range(40):
        candidate = (a * torch.exp(size * rate)).clamp_min(tiny)
        image = problem.gram.product(candidate)
        if float(problem.primal(candidate, image) - value) <= 1e-4 * size * slope + slack:
            return problem.state(candidate, image), -slope
        size /= 2
    return state, -slope


def _semismooth_step(problem: Problem, state: State) -> tuple[State, float]:
    """Return the state after one damped Newton step on c = q (f*)'(h_c) that does not lower the dual, and the decrement."""
    f, c, pulled = problem.entropy, state.a, state.pulled
    assert pulled is not None
    value = problem.dual(c, state.image)
    density = f.density(problem.witness(state.image))
    active = density > 0
    safe = torch.where(active, density, torch.ones_like(density))
    root = torch.where(active, (problem.q / f.curvature(safe)).sqrt(), torch.zeros_like(density))
    # (I + D K / lambda)^-1 = I - S (I + S K S / lambda)^-1 S K / lambda with S = D^1/2
    step = root * problem.newton_solve(root, root * pulled, state.gap) - (c - state.weights)
    slope, moved = float(-(pulled @ step)), problem.gram.product(step)
    size, slack = 1.0, 8 * torch.finfo(c.dtype).eps * (1 + abs(float(value)))
    for _ in range(40):
        candidate, image = c + size * step, state.image + size * moved
        if float(value - problem.dual(candidate, image)) <= -1e-4 * size * slope + slack:
            return problem.state(candidate, image), abs(slope)
        size /= 2
    return state, abs(slope)


def lbfgs(problem: Problem, start: Tensor, tolerance: float, max_iterations: int) -> tuple[State, int]:
    """Return the state after L-BFGS steps on log(a / q) where f is steep, else on the dual, and their number.

    They are made in rounds, until the duality gap is small.
    """
    steep = problem.entropy.steep
    z = torch.log(start / problem.q) if steep else start.clone()

    def weights() -> Tensor:
        return problem.q * torch.exp(z) if steep else z

    def closure() -> float:
        a = weights()
        image = problem.gram.product(a)
        if steep:
            z.grad = a * (problem.entropy.slope(a / problem.q) - problem.witness(image))
            return float(problem.primal(a, image))
        state = problem.state(a, image)
        z.grad = state.pulled
        return float(-problem.dual(a, image))

    state, iterations = problem.state(weights()), 0
    while iterations < max_iterations and not (iterations and problem.solved(state, tolerance)):
        # a fresh optimiser a round: it stops by itself where its line search no longer resolves the value
        optimizer = torch.optim.LBFGS(
            [z], max_iter=25, history_size=25, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
        )
        optimizer.step(closure)
        state, iterations = problem.state(weights()), iterations + 25
    return state, iterations


def guided(
    problem: Problem, start: Tensor, tolerance: float, max_iterations: int, models: Sequence[Gram]
) -> tuple[State, int]:
    """Return Newton's state and steps, begun where the same problem with a model's matrix ends, model after model."""
    for model in models:
        begun, _ = newton(replace(problem, gram=model), start, tolerance, max_iterations)
        if math.isfinite(begun.gap):
            start = begun.weights
    return newton(problem, start, tolerance, max_iterations)
