"""The flow: particles move along a velocity field, such as minus the gradient of a divergence's witness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _checks
from mmdflow.divergences import Divergence, VelocityField
from mmdflow.divergences.base import check_particles
from mmdflow.errors import InputError
from mmdflow.flows.callbacks import Callback, callback_moves
from mmdflow.flows.integrators import Integrator, make_integrator
from mmdflow.flows.moves import Diffusion, Move, NoiseInjection
from mmdflow.flows.state import FlowState, Record
from mmdflow.types import FlowResult, ScalarOrSchedule

#: A velocity field, or a function of the step index (0, 1, ...) that returns one.
FieldOrSchedule: TypeAlias = VelocityField | Callable[[int], VelocityField]


def flow(
    field: FieldOrSchedule,
    particles: Float[Tensor, "n *event"],
    *,
    step_size: ScalarOrSchedule,
    num_steps: int,
    integrator: str | Integrator = "euler",
    momentum: ScalarOrSchedule = 0.0,
    noise_injection: ScalarOrSchedule | Move | None = None,
    diffusion: ScalarOrSchedule | Move | None = None,
    moves: Move | Sequence[Move] = (),
    weights: Float[Tensor, " n"] | None = None,
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
        step_size: eta, a number or a function of the step index.
        num_steps: steps to make, at least 0.
        integrator: what takes a step: an `Integrator` of `mmdflow.flows`, such as Heun() or Adaptive(tolerance=1e-3), which is
            not changed; or the name of one, such as "heun".
        momentum: short form, for integrators that are given by name and have one: in [0, 1), a number or a function of the step.
            "nesterov" needs one; for "adam" it is beta_1.
        noise_injection: short form of `NoiseInjection(beta)`: the gradient is taken at x + beta u, off the support. It is not
            Langevin diffusion. A `DescentNoise` chooses beta by its descent condition.
        diffusion: short form of `Diffusion(scale)`: x receives scale u after the step (Langevin-like).
        moves: one or several `Move` objects of `mmdflow.flows`, such as BirthDeath(rate) or Reweighting(rate). They act in
            their order, after noise_injection and diffusion and before the callbacks.
        weights: of the particles, [n], non-negative; scaled to sum 1. 1/n each by default. They do not change how fast a particle
            moves, but how much it counts.
        save_every: record particles and F every so many steps, or after the steps of a list; the start and the end always are.
        evaluate: whether to compute F at the recorded steps; without it, and for fields without F, `values` is empty. The F of
            a schedule is that of the step just made (at the start: of the first step).
        callback: one or several, called in turn after every step with (steps made, particles). Each may return a tensor of the
            same shape that replaces the particles (`mmdflow.flows.constraints`), True to stop, or None. One that has a
            `start(particles, weights)` is called with them when a flow begins; what its `report()` returns, if it has one, goes
            into the result's report.
        progress: show a bar.
        generator: of the random draws; on its own device.

    Returns:
        A `FlowResult`.

    Raises:
        InputError: for NaN or infinite particles, mismatched shapes, impossible settings, or a move that needs more of the field
            than it has.
        DivergedError: when particles become non-finite: lower step_size; or when a recorded F is NaN.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian, flow
        >>> target = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> result = flow(MMD(target, Gaussian(1.0)), target + 1, step_size=1.0, num_steps=100)
        >>> bool(result.values[-1] < 0.1 * result.values[0])
        True
    """
    field_at = _field_schedule(field, particles)
    _checks.count("num_steps", num_steps, 0)
    eta = _checks.schedule("step_size", step_size, _checks.non_negative)
    stepper = make_integrator(integrator, momentum)
    record = Record(_due(save_every), evaluate)
    actions = [
        *_short_form("noise_injection", noise_injection, NoiseInjection),
        *_short_form("diffusion", diffusion, Diffusion),
        *_given_moves(moves),
        *callback_moves(callback),
    ]
    with torch.inference_mode(False), torch.no_grad():
        state = _begin(field_at(0), particles, weights, stepper, actions, generator)
        record.add(0, state)
        for step in tqdm(range(num_steps), disable=not progress, desc="flow", unit="step"):
            if step > 0:
                state.field = field_at(step)
                _check_needs(state.field, actions)
            _take_step(state, step, eta(step), actions)
            if state.stop or step + 1 == num_steps or record.due(step + 1):
                record.add(step + 1, state)
            if state.stop:
                break
        report: dict[str, object] = {}
        for move in actions:
            report |= move.report()
        return record.result(state, report)


def _begin(
    field: VelocityField,
    particles: Tensor,
    weights: Tensor | None,
    integrator: Integrator,
    moves: Sequence[Move],
    generator: torch.Generator | None,
) -> FlowState:
    """Return the state before the first step, after checking what the flow is made of."""
    check_particles(field, particles)
    _check_needs(field, moves)
    x, weighted = particles.detach().clone(), weights is not None or any(move.weighted for move in moves)
    state = FlowState(field, x, _checks.weights("weights", weights, x) if weighted else None, integrator, generator)
    for move in moves:
        move.start(state)
    return state


def _take_step(state: FlowState, step: int, step_size: float, moves: Sequence[Move]) -> None:
    state.begin(step, step_size)
    shape = state.particles.shape
    for move in moves:
        move.before(state)
        _check_shape(move, state, shape)
    state.advance()
    for move in moves:
        move.after(state)
        _check_shape(move, state, shape)


def _check_shape(move: Move, state: FlowState, shape: torch.Size) -> None:
    """Raise InputError where a move changed the shape of the particles."""
    if state.particles.shape != shape:
        raise InputError(
            f"moves: {type(move).__name__} set particles of shape {list(state.particles.shape)}: must be {list(shape)}"
        )


def _check_needs(field: VelocityField, moves: Sequence[Move]) -> None:
    """Raise InputError where a move needs more of the field than it has."""
    for move in moves:
        has_witness = callable(getattr(field, "witness", None))
        if (move.needs_witness and not has_witness) or (move.needs_value and not isinstance(field, Divergence)):
            part = "a value F" if move.needs_value else "a witness"
            raise InputError(
                f"{type(move).__name__} with field {type(field).__name__}: the field must have {part}, as a Divergence has"
            )


def _field_schedule(field: FieldOrSchedule, particles: object) -> Callable[[int], VelocityField]:
    """Return the field of every step."""
    given: object = field
    if isinstance(field, VelocityField):
        return lambda step: field
    if isinstance(given, Tensor) and isinstance(particles, VelocityField):
        raise InputError(
            "field is a tensor and particles is a velocity field: the field comes first, flow(field, particles)"
        )
    if not callable(given):
        raise InputError(
            f"field = {_short(given)}: must be a Divergence, such as MMD(target, Riesz()), another VelocityField, or a function "
            f"of the step that returns one"
        )

    def field_at(step: int) -> VelocityField:
        chosen = field(step)
        if not isinstance(chosen, VelocityField):
            raise InputError(f"field({step}) = {_short(chosen)}: must be a VelocityField, such as MMD(target, Riesz())")
        return chosen

    return field_at


def _short(value: object) -> str:
    """Return a value on one line; a tensor by its shape."""
    return f"tensor {list(value.shape)}" if isinstance(value, Tensor) else " ".join(repr(value).split())[:80]


def _short_form(
    name: str, value: ScalarOrSchedule | Move | None, kind: Callable[[ScalarOrSchedule], Move]
) -> list[Move]:
    """Return the move that a number, a function of the step, or an object stands for."""
    if value is None or isinstance(value, Move):
        return [] if value is None else [value]
    return [kind(_checks.schedule(name, value))]


def _given_moves(moves: Move | Sequence[Move]) -> list[Move]:
    several = list(moves) if isinstance(moves, Iterable) else [moves]
    for move in several:
        if not isinstance(move, Move):
            raise InputError(f"moves = {_short(move)}: must be Move objects, such as BirthDeath(0.5)")
    return several


def _due(save_every: int | Sequence[int] | None) -> Callable[[int], bool]:
    """Return whether the state after that many steps is recorded."""
    if save_every is None:
        return lambda step: False
    if isinstance(save_every, Iterable):
        chosen = {_checks.count("save_every", step, 0) for step in save_every}
        return lambda step: step in chosen
    every = _checks.count("save_every", save_every)
    return lambda step: step % every == 0
