"""The flow: particles move along a velocity field, such as minus the gradient of a divergence's witness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _checks
from mmdflow._tensors import device_of, normal_like
from mmdflow.divergences import Divergence, VelocityField
from mmdflow.errors import DivergedError, InputError
from mmdflow.flows.integrators import DescentNoise, make_integrator
from mmdflow.types import FlowResult, ScalarOrSchedule

#: Called with (steps made, particles) after every step; returns particles that replace them, True to stop, or None.
Callback: TypeAlias = Callable[[int, Tensor], Tensor | bool | None]
#: A velocity field, or a function of the step index (0, 1, ...) that returns one.
FieldOrSchedule: TypeAlias = VelocityField | Callable[[int], VelocityField]


def flow(
    field: FieldOrSchedule,
    particles: Float[Tensor, "n *event"],
    *,
    step_size: ScalarOrSchedule,
    num_steps: int,
    momentum: ScalarOrSchedule = 0.0,
    noise_injection: ScalarOrSchedule | DescentNoise | None = None,
    diffusion: ScalarOrSchedule | None = None,
    integrator: str = "euler",
    tolerance: float = 1e-3,
    weights: Float[Tensor, " n"] | None = None,
    birth_death: ScalarOrSchedule | None = None,
    reweighting: ScalarOrSchedule | None = None,
    save_every: int | Sequence[int] | None = None,
    evaluate: bool = True,
    callback: Callback | Sequence[Callback] | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> FlowResult:
    r"""Move particles along a velocity field, such as the Wasserstein gradient of a divergence.

    By default explicit Euler steps: x <- x - eta v,  v <- grad f(x + beta u) + momentum v,  u ~ N(0, I)
    (Arbel et al. 2019, noise injection; Hertrich et al. 2024, momentum, whose effective step is eta / (1 - momentum)).

    Args:
        field: what moves the particles: a `Divergence` F with its target, any other `VelocityField`, or a function of the step
            index 0, 1, ... that returns one; it is called once a step. F is evaluated where the field is a divergence.
        particles: the source, [n, *event], n >= 1; never modified.
        step_size: eta, a number or a function of the step index 0, 1, ...
        num_steps: steps to make, at least 0.
        momentum: in [0, 1), a number or a function of the step; for "adam" it is beta_1.
        noise_injection: beta; the gradient is evaluated at x + beta u, off the support. It is not Langevin diffusion. A
            `DescentNoise` chooses beta by its descent condition.
        diffusion: x receives + diffusion * u after the step (Langevin-like), a number or a function of the step.
        integrator: "euler", "nesterov" (momentum, gradient ahead), "heun" (second order), "adams_bashforth" (second order,
            one evaluation), "adam", or "adaptive" (Heun with a step size that keeps the error of a step at most `tolerance`;
            step_size is the first one).
        tolerance: root mean square error of a step of "adaptive", in the particles' units.
        weights: of the particles, [n], non-negative; scaled to sum 1. 1/n each by default. They do not change how fast a particle
            moves, but how much it counts.
        birth_death: rate of Fisher-Rao jumps after each step (Lu, Lu, Nolen 2019): a particle with f above its mean dies with
            probability 1 - exp(-rate eta |f - mean f|) and another, drawn at random, is born again; one with f below is
            duplicated over a random one. Duplicates coincide until noise parts them. Not with weights.
        reweighting: rate of Fisher-Rao steps on the weights (Wasserstein-Fisher-Rao): w <- w exp(-rate eta (f - mean f)), scaled.
        save_every: record particles and F every so many steps, or after the steps of a list; the start and the end always are.
        evaluate: whether to compute F at the recorded steps; without it, and for fields without F, `values` is empty. The F of
            a schedule is that of the step just made (at the start: of the first step).
        callback: one or several, called in turn after every step with (steps made, particles). Each may return a tensor of the
            same shape that replaces the particles (`mmdflow.flows.constraints`), True to stop, or None. One that has a
            `start(particles, weights)` is told when a flow begins; one that has a `report()` puts it into the result's report.
        progress: show a bar.
        generator: of the random draws; on its own device.

    Returns:
        A `FlowResult`.

    Raises:
        InputError: for NaN or infinite particles, mismatched shapes, impossible settings.
        DivergedError: when particles become non-finite; lower step_size.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian, flow
        >>> target = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> result = flow(MMD(target, Gaussian(1.0)), target + 1, step_size=1.0, num_steps=100)
        >>> bool(result.values[-1] < 0.1 * result.values[0])
        True
    """
    field_at = _schedule_of_fields(field, particles)
    _checks.count("num_steps", num_steps, 0)
    saved = _saved(save_every)
    eta = _checks.schedule("step_size", step_size, _checks.non_negative)
    rho = _checks.schedule("momentum", momentum, lambda field, value: _checks.interval(field, value, 0.0, 1.0, "[)"))
    stepper = make_integrator(integrator, tolerance, momentum)
    descent = noise_injection if isinstance(noise_injection, DescentNoise) else None
    if descent is not None and (integrator != "euler" or callable(momentum) or momentum != 0):
        raise InputError(
            f"integrator = {integrator!r}, momentum = {momentum!r} with DescentNoise: must be 'euler' and 0, the steps of its "
            f"descent condition"
        )
    beta = None if isinstance(noise_injection, DescentNoise) else _optional("noise_injection", noise_injection)
    temperature = _optional("diffusion", diffusion)
    jump_rate = _optional("birth_death", birth_death, _checks.non_negative)
    weight_rate = _optional("reweighting", reweighting, _checks.non_negative)
    if birth_death is not None and (weights is not None or reweighting is not None):
        raise InputError(
            "birth_death with weights or reweighting: must be alone; jumps are between equally weighted particles"
        )
    callbacks = _callbacks(callback)

    with torch.inference_mode(False), torch.no_grad():
        moving = field_at(0)
        _check_particles(moving, particles)
        _check_moves(moving, birth_death, reweighting, descent)
        x = particles.detach().clone()
        w = _checks.weights("weights", weights, x) if weights is not None or reweighting is not None else None
        watchers = [watcher for watcher in (descent, *callbacks) if watcher is not None]
        for watcher in watchers:
            begin: Callable[[Tensor, Tensor | None], None] | None = getattr(watcher, "start", None)
            if begin is not None:
                begin(x, w)
        record = _Record(evaluate)
        record.add(moving, 0, 0.0, x, w)
        nfe, time, stop = 0, 0.0, False
        for step in tqdm(range(num_steps), disable=not progress, desc="flow", unit="step"):
            moving = field_at(step) if step else moving
            if descent is not None:
                x, evaluations = descent.step(moving, x, w, normal_like(x, generator), eta(step), step)
                elapsed = eta(step)
            else:
                gradient = _Gradient(moving, w, None if beta is None else beta(step) * normal_like(x, generator))
                x, elapsed = stepper.step(gradient, x, eta(step), rho(step))
                evaluations = gradient.evaluations
            nfe, time = nfe + evaluations, time + elapsed
            if temperature is not None:
                x = x + temperature(step) * normal_like(x, generator)
            if weight_rate is not None and w is not None:
                w = reweighted(moving.witness(x, w)(x), w, weight_rate(step) * elapsed)
            if jump_rate is not None:
                index = jumps(moving.witness(x)(x), jump_rate(step) * elapsed, generator)
                x = x[index]
                stepper.select(index)
            for call in callbacks:
                answer = call(step + 1, x)
                if isinstance(answer, Tensor):
                    if answer.shape != x.shape:
                        raise InputError(f"callback returned shape {list(answer.shape)}: must be {list(x.shape)}")
                    x = answer.detach().to(x)
                elif answer is not None:
                    stop = stop or bool(answer)
            if stop or step + 1 == num_steps or saved(step + 1):
                if not _checks.all_finite(x):
                    raise DivergedError(
                        f"particles became non-finite by step {step + 1}: lower step_size ({eta(step):g} here)"
                    )
                record.add(moving, step + 1, time, x, w)
            if stop:
                break
        report: dict[str, object] = {}
        for watcher in watchers:
            tell: Callable[[], dict[str, object]] | None = getattr(watcher, "report", None)
            report |= {} if tell is None else tell()
        return record.result(x, w, nfe, report)


class _Gradient:
    """x -> grad f(x + noise), with f frozen at x; counts its evaluations."""

    def __init__(self, field: VelocityField, weights: Tensor | None, noise: Tensor | None) -> None:
        self.field, self.weights, self.noise = field, weights, noise
        self.evaluations = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.evaluations += 1
        at = None if self.noise is None else x + self.noise
        return -self.field.velocity(x, at, self.weights)


class _Record:
    """What is kept of a flow on its way."""

    def __init__(self, evaluate: bool) -> None:
        self.evaluate = evaluate
        self.steps: list[int] = []
        self.times: list[float] = []
        self.snapshots: list[Tensor] = []
        self.values: list[Tensor] = []

    def add(self, field: VelocityField, step: int, time: float, x: Tensor, weights: Tensor | None) -> None:
        self.steps.append(step)
        self.times.append(time)
        self.snapshots.append(x)
        if self.evaluate and isinstance(field, Divergence):
            self.values.append(field(x, weights))

    def result(self, x: Tensor, weights: Tensor | None, nfe: int, report: dict[str, object]) -> FlowResult:
        return FlowResult(
            particles=x,
            values=torch.stack(self.values) if self.values else x.new_empty(0),
            trajectory=torch.stack(self.snapshots),
            steps=torch.tensor(self.steps),
            nfe=nfe,
            times=torch.tensor(self.times, dtype=torch.float64),
            weights=weights,
            report=report,
        )


def _schedule_of_fields(field: FieldOrSchedule, particles: Tensor) -> Callable[[int], VelocityField]:
    """Return the field of every step."""
    if isinstance(field, VelocityField):
        return lambda step: field
    if isinstance(field, Tensor) and isinstance(particles, VelocityField):
        raise InputError(
            "field is a tensor and particles is a velocity field: the field comes first, flow(field, particles)"
        )
    if not callable(field):
        raise InputError(
            f"field = {_short(field)}: must be a Divergence, such as MMD(target, Riesz()), {_OTHER_FIELDS}"
        )

    def field_at(step: int) -> VelocityField:
        chosen = field(step)
        if not isinstance(chosen, VelocityField):
            raise InputError(f"field({step}) = {_short(chosen)}: must be a VelocityField, such as MMD(target, Riesz())")
        return chosen

    return field_at


_OTHER_FIELDS = "another VelocityField, or a function of the step that returns one"


def _short(value: object) -> str:
    """Return a value on one line; a tensor by its shape."""
    return f"tensor {list(value.shape)}" if isinstance(value, Tensor) else " ".join(repr(value).split())[:80]


def _check_particles(field: VelocityField, particles: Tensor) -> None:
    """Raise InputError unless the field can move the particles."""
    if isinstance(field, Divergence):
        field.check(particles)
    else:
        _checks.points("particles", particles)


def _check_moves(field: VelocityField, birth_death: object, reweighting: object, descent: object) -> None:
    """Raise InputError for moves that need more of the field than it has."""
    kind = type(field).__name__
    for name, move in (("birth_death", birth_death), ("reweighting", reweighting)):
        if move is not None and not callable(getattr(field, "witness", None)):
            raise InputError(f"{name} with field {kind}: the field must have a witness, as a Divergence has")
    if descent is not None and not isinstance(field, Divergence):
        raise InputError(f"DescentNoise with field {kind}: the field must have a value F, as a Divergence has")


def reweighted(f: Float[Tensor, " n"], weights: Float[Tensor, " n"], time: float) -> Float[Tensor, " n"]:
    """Return the weights after a Fisher-Rao step of the given length down the witness values f."""
    return torch.softmax(weights.log() - time * (f - weights @ f), 0)


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


def _callbacks(callback: Callback | Sequence[Callback] | None) -> list[Callback]:
    if callback is None:
        return []
    several = list(callback) if isinstance(callback, Sequence) else [callback]
    for one in several:
        if not callable(one):
            raise InputError(f"callback = {one!r}: must be a function of (steps made, particles), or several")
    return several


def _saved(save_every: int | Sequence[int] | None) -> Callable[[int], bool]:
    """Return whether the state after that many steps is recorded."""
    if save_every is None:
        return lambda step: False
    if isinstance(save_every, Iterable):
        chosen = {_checks.count("save_every", step, 0) for step in save_every}
        return lambda step: step in chosen
    every = _checks.count("save_every", save_every)
    return lambda step: step % every == 0


def _optional(
    field: str, value: ScalarOrSchedule | None, check: Callable[[str, float], float] = _checks.finite
) -> Callable[[int], float] | None:
    return None if value is None else _checks.schedule(field, value, check)
