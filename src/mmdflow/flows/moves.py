"""Moves: what happens to the particles of a flow in or after a step, besides the step itself."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._arrays import of_any_kind
from mmdflow._tensors import device_of, flat
from mmdflow.errors import InputError
from mmdflow.flows.integrators import Euler, Gradient, Integrator, moved
from mmdflow.flows.state import FlowState
from mmdflow.types import ScalarOrSchedule


class Move:
    """Something that happens in or after every step of a flow. One's own is a subclass with `before` or `after`.

    The moves of a flow act in the order in which they are given. Give them to `flow` as `moves`.

    Attributes:
        needs_witness: whether the move needs the witness f, `state.witness_values()`; `flow` then refuses fields without one.
        needs_value: whether it needs F, `state.value(x)`; likewise.
        weighted: whether the particles carry weights of their own: 1/n each at the start, unless `flow` was given others.
        timed: whether it acts in proportion to the time of a step, so that steps of size 0 leave it nothing to do.
        by_particle: whether it treats a particle without a look at the others, as moves of sharded flows must.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian, flow
        >>> class Recentre(Move):
        ...     def after(self, state):
        ...         state.particles = state.particles - state.particles.mean(0)
        >>> result = flow(MMD(torch.ones(4, 1), Gaussian(1.0)), torch.randn(3, 1), step_size=0.5, num_steps=10,
        ...               moves=[Recentre()])
        >>> bool(result.particles.mean().abs() < 1e-6)
        True
    """

    needs_witness: ClassVar[bool] = False
    needs_value: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    timed: ClassVar[bool] = False
    by_particle: ClassVar[bool] = False

    def start(self, state: FlowState) -> None:
        """Begin a flow: forget the last one, and check that the move makes sense in this one."""

    def before(self, state: FlowState) -> None:
        """Act before a step; `state.shift` moves the points at which its gradient is taken."""

    def after(self, state: FlowState) -> None:
        """Act after a step, which took the flow time `state.elapsed`."""

    def report(self) -> dict[str, Any]:
        """Return what the result's report shall hold."""
        return {}


class NoiseInjection(Move):
    """The gradient is taken at x + beta u, u ~ N(0, I), off the support (Arbel et al. 2019). It is not Langevin diffusion.

    Short form: `flow(noise_injection=beta)`.

    Args:
        beta: the noise level, a number or a function of the step.
    """

    by_particle = True

    def __init__(self, beta: ScalarOrSchedule) -> None:
        self.beta_at = _checks.schedule("beta", beta, _checks.non_negative)

    def before(self, state: FlowState) -> None:
        """Draw the noise of the step."""
        noise = self.beta_at(state.step) * state.normal()
        state.shift = noise if state.shift is None else state.shift + noise


class Diffusion(Move):
    """x <- x + scale u after the step, u ~ N(0, I): Langevin-like.

    Short form: `flow(diffusion=scale)`.

    Args:
        scale: a number or a function of the step. Noise does not vanish by itself: let it fall to 0.
    """

    by_particle = True

    def __init__(self, scale: ScalarOrSchedule) -> None:
        self.scale_at = _checks.schedule("scale", scale, _checks.non_negative)

    def after(self, state: FlowState) -> None:
        """Add the noise."""
        state.particles = state.particles + self.scale_at(state.step) * state.normal()


class Reweighting(Move):
    """Fisher-Rao steps on the weights: w_i <- w_i exp(-rate eta (f(x_i) - mean f)), scaled to sum 1.

    With the step of the particles it makes a Wasserstein-Fisher-Rao flow. The last weights are in the result.

    Args:
        rate: at least 0, a number or a function of the step.
    """

    needs_witness = True
    weighted = True
    timed = True

    def __init__(self, rate: ScalarOrSchedule) -> None:
        self.rate_at = _checks.schedule("rate", rate, _checks.non_negative)

    def after(self, state: FlowState) -> None:
        """Move the weights."""
        assert state.weights is not None
        time = self.rate_at(state.step) * state.elapsed
        state.weights = reweighted(state.witness_values(), state.weights, time)


class BirthDeath(Move):
    """Fisher-Rao steps by jumps of equally weighted particles (Lu, Lu, Nolen 2019).

    A particle with f above its mean dies with probability 1 - exp(-rate eta |f - mean f|), and another, drawn at random, is born
    again; one with f below is duplicated over a random one. Duplicates coincide until noise parts them.

    Args:
        rate: at least 0, a number or a function of the step.
    """

    needs_witness = True
    timed = True

    def __init__(self, rate: ScalarOrSchedule) -> None:
        self.rate_at = _checks.schedule("rate", rate, _checks.non_negative)

    def start(self, state: FlowState) -> None:
        """Begin a flow of equally weighted particles."""
        if state.weights is not None:
            raise InputError(
                "BirthDeath with weights or Reweighting: must be alone; jumps are between equally weighted particles"
            )

    def after(self, state: FlowState) -> None:
        """Let particles die and be born."""
        time = self.rate_at(state.step) * state.elapsed
        state.select(jumps(state.witness_values(), time, state.generator))


class DescentNoise(Move):
    r"""Noise injection whose level keeps the descent condition (Arbel et al. 2019, Proposition 8), and a monitor of it.

    F_{t+1} - F_t <= -C gamma E |grad f(X_t + beta_t u)|^2. With `adapt`, a step that breaks it is made again with half the
    beta, and beta grows by a fifth after a step that kept it, up to the given one; where no beta keeps it the plain gradient is
    taken. Without, the given beta is used and the condition only recorded. F_t <= F_0 exp(-C' sum beta_t^2) follows where it
    holds and sum beta_t^2 diverges. F must be the same function before and after a step, which `AdaptiveMMD` is not. Each try
    costs a value and a gradient. It takes the steps itself: Euler's, without momentum. Give it to `flow` as `noise_injection`,
    or among the moves.

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

    needs_value = True
    #: Levels that are tried before the plain gradient.
    TRIES = 12

    def __init__(self, beta: ScalarOrSchedule, *, constant: float = 0.1, adapt: bool = True) -> None:
        self.beta_at = _checks.schedule("beta", beta, _checks.non_negative)
        self.constant = _checks.interval("constant", constant, 0.0, 1.0, "()")
        self.adapt = adapt
        self._level = math.inf
        self.history: list[dict[str, float]] = []

    def start(self, state: FlowState) -> None:
        """Begin a flow, and take its steps in the integrator's place."""
        integrator = state.integrator
        if type(integrator) is not Euler or callable(integrator.momentum) or integrator.momentum != 0:
            raise InputError(
                f"integrator and momentum = {integrator!r} with DescentNoise: must be 'euler' and 0, the steps of its descent "
                f"condition"
            )
        self.history, self._level = [], math.inf
        state.integrator = _DescentSteps(self, state)

    def step(self, state: FlowState) -> Float[Tensor, "n *event"]:
        """Return the particles after the step."""
        if state.shift is not None:
            raise InputError("NoiseInjection with DescentNoise: must be left out; DescentNoise injects noise itself")
        x, noise, bound = state.particles, state.normal(), self.beta_at(state.step)
        level = min(bound, self._level) if self.adapt else bound
        for attempt in range(1, self.TRIES + 1):
            gradient = state.gradient(x, x + level * noise)
            # after the gradient: a sliced divergence has drawn its directions then
            before = state.value(x)
            new = moved(x, gradient, state.step_size)
            square = flat(gradient).square().sum(1)
            mean_square = square.mean() if state.weights is None else state.weights @ square
            required = self.constant * state.step_size * float(mean_square)
            decrease = before - state.value(new)
            held = decrease >= required
            if held or not self.adapt or level == 0:
                break
            level = level / 2 if attempt < self.TRIES - 1 else 0.0
        if bound > 0:
            self._level = 1.2 * level if held and level > 0 else max(level, 1e-3 * bound)
        self.history.append({"beta": level, "decrease": decrease, "required": required, "held": float(held)})
        return new

    def report(self) -> dict[str, Any]:
        """Return beta, the decrease of F and the one required after every step, and the share of steps that kept it."""
        columns: dict[str, Any] = {k: [row[k] for row in self.history] for k in ("beta", "decrease", "required")}
        held = [row["held"] for row in self.history]
        columns["descent_held"] = sum(held) / len(held) if held else math.nan
        columns["sum_beta_squared"] = sum(b * b for b in columns["beta"])
        return columns


class _DescentSteps(Integrator):
    """The steps of `DescentNoise`: as many evaluations as it needs."""

    def __init__(self, noise: DescentNoise, state: FlowState) -> None:
        self.noise, self.state = noise, state

    def step(self, gradient: Gradient, x: Tensor, step_size: float, k: int) -> tuple[Tensor, float]:
        return self.noise.step(self.state), step_size


@of_any_kind
def reweighted(f: Float[Tensor, " n"], weights: Float[Tensor, " n"], time: float) -> Float[Tensor, " n"]:
    """Return the weights after a Fisher-Rao step of the given length down the witness values f."""
    return torch.softmax(weights.log() - time * (f - weights @ f), 0)


@of_any_kind
def jumps(f: Float[Tensor, " n"], time: float, generator: torch.Generator | None) -> Tensor:
    """Return the particle that each particle is after birth-death jumps for the given time, [n] (Lu, Lu, Nolen 2019)."""
    n, device = len(f), device_of(generator)
    index = torch.arange(n)
    rates = (f - f.mean()).cpu()
    chances = torch.rand(n, dtype=f.dtype, device=device, generator=generator).cpu()
    others = torch.randint(n, (n,), device=device, generator=generator).cpu()
    order = torch.randperm(n, device=device, generator=generator).cpu()
    happens = chances < -torch.expm1(-time * rates.abs())
    for i in order[happens[order]].tolist():
        j = int(others[i])
        if rates[i] > 0:
            index[i] = index[j]
        else:
            index[j] = index[i]
    return index.to(f.device)
