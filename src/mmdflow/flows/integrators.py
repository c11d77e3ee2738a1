"""How a flow takes a step along minus the gradient, and the noise injection that keeps its descent condition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import flat
from mmdflow.divergences import Divergence
from mmdflow.errors import DivergedError, InputError
from mmdflow.types import ScalarOrSchedule

#: x -> grad f(x), with the noise of this step.
Gradient: TypeAlias = Callable[[Tensor], Tensor]


class Integrator:
    """A rule for one step. `step` returns the new particles and the time that passed."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def step(self, gradient: Gradient, x: Tensor, step_size: float, momentum: float) -> tuple[Tensor, float]:
        """Return the particles after one step, and its time."""
        raise NotImplementedError

    def select(self, index: Tensor) -> None:
        """Follow a birth-death step in which particle i was replaced by particle index[i]."""


class Euler(Integrator):
    """v <- grad f(x) + momentum v, x <- x - eta v (heavy ball; Hertrich et al. 2024 for MMD flows)."""

    previous: Tensor | None = None

    def step(self, gradient: Gradient, x: Tensor, step_size: float, momentum: float) -> tuple[Tensor, float]:  # noqa: D102
        v = gradient(x)
        v = v if self.previous is None else v + momentum * self.previous
        self.previous = v
        return x - step_size * v, step_size

    def select(self, index: Tensor) -> None:  # noqa: D102
        self.previous = None if self.previous is None else self.previous[index]


class Nesterov(Euler):
    """The gradient is taken where momentum alone would carry the particles: v <- grad f(x - eta momentum v) + momentum v."""

    def step(self, gradient: Gradient, x: Tensor, step_size: float, momentum: float) -> tuple[Tensor, float]:  # noqa: D102
        ahead = x if self.previous is None else x - step_size * momentum * self.previous
        return super().step(lambda _: gradient(ahead), x, step_size, momentum)


class Heun(Integrator):
    """The mean of the gradients before and after an Euler step: second order, two evaluations."""

    def step(self, gradient: Gradient, x: Tensor, step_size: float, momentum: float) -> tuple[Tensor, float]:  # noqa: D102
        first = gradient(x)
        return x - step_size / 2 * (first + gradient(x - step_size * first)), step_size


class AdamsBashforth(Integrator):
    """Adams and Bashforth's second order, one evaluation: the gradient is carried on in a straight line from the last one's.

    x <- x - eta (g + r/2 (g - g')), with g' the gradient of the step before and r the step size in terms of its; Euler's first.
    """

    previous: Tensor | None = None
    size = 0.0

    def step(self, gradient: Gradient, x: Tensor, step_size: float, momentum: float) -> tuple[Tensor, float]:  # noqa: D102
        g = gradient(x)
        ahead = g if self.previous is None or self.size == 0 else g + step_size / (2 * self.size) * (g - self.previous)
        self.previous, self.size = g, step_size
        return x - step_size * ahead, step_size

    def select(self, index: Tensor) -> None:  # noqa: D102
        self.previous = None if self.previous is None else self.previous[index]


class Adam(Integrator):
    """Adam (Kingma and Ba 2015) entry by entry: momentum is beta_1 (0.9 is usual), beta_2 = 0.999, with bias correction."""

    first: Tensor | None = None
    second: Tensor | None = None
    count = 0
    decay, epsilon = 0.999, 1e-8
    weight = 1.0

    def step(self, gradient: Gradient, x: Tensor, step_size: float, momentum: float) -> tuple[Tensor, float]:  # noqa: D102
        g = gradient(x)
        self.first = torch.zeros_like(g) if self.first is None else self.first
        self.second = torch.zeros_like(g) if self.second is None else self.second
        self.first = momentum * self.first + (1 - momentum) * g
        self.second = self.decay * self.second + (1 - self.decay) * g.square()
        self.count += 1
        self.weight *= momentum  # what is left of the zero that the first moment began with
        scale = (self.second / (1 - self.decay**self.count)).sqrt() + self.epsilon
        return x - step_size * self.first / (1 - self.weight) / scale, step_size

    def select(self, index: Tensor) -> None:  # noqa: D102
        self.first = None if self.first is None else self.first[index]
        self.second = None if self.second is None else self.second[index]


class Adaptive(Integrator):
    """Heun's steps, as long as their difference from Euler's allows: root mean square error a step at most `tolerance`.

    The given step size is the first one's. A step that errs more is made again, shorter. It needs a gradient that is the same
    when asked again: `SlicedMMD` with redraw=False.
    """

    size: float | None = None

    def step(self, gradient: Gradient, x: Tensor, step_size: float, momentum: float) -> tuple[Tensor, float]:  # noqa: D102
        size = _checks.positive("step_size", step_size) if self.size is None else self.size
        first = gradient(x)
        for _ in range(50):
            change = (gradient(x - size * first) - first) / 2
            error = size * float(change.square().mean().sqrt()) / self.tolerance
            factor = 0.9 / math.sqrt(error) if error > 0 else 5.0
            taken, size = size, size * (min(5.0, max(0.2, factor)) if math.isfinite(error) else 0.2)
            if error <= 1:
                self.size = size
                return x - taken * (first + change), taken
        raise DivergedError(
            f"the adaptive step size fell to {size:.1e} at an error of {error:.1e} tolerances: raise tolerance "
            f"({self.tolerance:g}), or make the gradient repeatable (SlicedMMD with redraw=False)"
        )


INTEGRATORS: dict[str, Callable[[float], Integrator]] = {
    "euler": Euler,
    "nesterov": Nesterov,
    "heun": Heun,
    "adams_bashforth": AdamsBashforth,
    "adam": Adam,
    "adaptive": Adaptive,
}
#: Those in which momentum has a meaning.
WITH_MOMENTUM = ("euler", "nesterov", "adam")


class DescentNoise:
    r"""Noise injection whose level keeps the descent condition (Arbel et al. 2019, Proposition 8), and a monitor of it.

    F_{t+1} - F_t <= -C gamma E |grad f(X_t + beta_t u)|^2. With `adapt`, a step that breaks it is made again with half the
    beta, and beta grows by a fifth after a step that kept it, up to the given one; where no beta keeps it the plain gradient is
    taken. Without, the given beta is used and the condition only recorded. F_t <= F_0 exp(-C' sum beta_t^2) follows where it
    holds and sum beta_t^2 diverges. F must be the same function before and after a step, which `AdaptiveMMD` is not. Each try
    costs a value and a gradient. Give it to `flow` as `noise_injection`.

    Args:
        beta: the noise level, or with `adapt` the largest one: a number or a function of the step.
        constant: C, in (0, 1).
        adapt: keep the condition, or only watch it.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, DescentNoise, Gaussian, flow
        >>> target = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> noise = DescentNoise(1.0)
        >>> result = flow(MMD(target, Gaussian(1.0)), target + 2, step_size=1.0, num_steps=50, noise_injection=noise)
        >>> result.report["descent_held"]
        1.0
    """

    #: Levels that are tried before the plain gradient.
    TRIES = 12

    def __init__(self, beta: ScalarOrSchedule, *, constant: float = 0.1, adapt: bool = True) -> None:
        self.beta = _checks.schedule("beta", beta, _checks.non_negative)
        self.constant = _checks.interval("constant", constant, 0.0, 1.0, "()")
        self.adapt = adapt
        self._level = math.inf
        self.history: list[dict[str, float]] = []

    def start(self, particles: Tensor, weights: Tensor | None) -> None:
        """Begin a flow."""
        self.history, self._level = [], math.inf

    def step(
        self, divergence: Divergence, x: Tensor, weights: Tensor | None, noise: Tensor, step_size: float, step: int
    ) -> tuple[Tensor, int]:
        """Return the particles after the step, and the evaluations of the gradient that it took."""
        bound = self.beta(step)
        level = min(bound, self._level) if self.adapt else bound
        for attempt in range(1, self.TRIES + 1):
            gradient = -divergence.velocity(x, x + level * noise, weights)
            # after the gradient: a sliced divergence has drawn its directions then
            before = float(divergence(x, weights))
            new = x - step_size * gradient
            square = flat(gradient).square().sum(1)
            required = self.constant * step_size * float(square.mean() if weights is None else weights @ square)
            decrease = before - float(divergence(new, weights))
            held = decrease >= required
            if held or not self.adapt or level == 0:
                break
            level = level / 2 if attempt < self.TRIES - 1 else 0.0
        if bound > 0:
            self._level = 1.2 * level if held and level > 0 else max(level, 1e-3 * bound)
        self.history.append({"beta": level, "decrease": decrease, "required": required, "held": float(held)})
        return new, attempt

    def report(self) -> dict[str, Any]:
        """Return beta, the decrease of F and the one required after every step, and the share of steps that kept it."""
        columns: dict[str, Any] = {k: [row[k] for row in self.history] for k in ("beta", "decrease", "required")}
        held = [row["held"] for row in self.history]
        columns["descent_held"] = sum(held) / len(held) if held else math.nan
        columns["sum_beta_squared"] = sum(b * b for b in columns["beta"])
        return columns


def make_integrator(name: str, tolerance: float, momentum: ScalarOrSchedule) -> Integrator:
    """Return a fresh integrator of that name."""
    _checks.choice("integrator", name, INTEGRATORS)
    if name not in WITH_MOMENTUM and (callable(momentum) or momentum != 0):
        raise InputError(
            f"momentum = {momentum!r} with integrator = {name!r}: only {', '.join(WITH_MOMENTUM)} have momentum"
        )
    if name == "nesterov" and momentum == 0:
        raise InputError("momentum = 0 with integrator = 'nesterov': must be in (0, 1), or a function of the step")
    return INTEGRATORS[name](_checks.positive("tolerance", tolerance))
