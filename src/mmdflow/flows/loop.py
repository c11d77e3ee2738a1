"""The flow: particles move along a velocity field, such as minus the gradient of a divergence's witness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _arrays, _checks
from mmdflow._tensors import device_of
from mmdflow.distributed import Ranks, Rows, current, shard
from mmdflow.divergences import Divergence, VelocityField
from mmdflow.divergences.base import check_particles
from mmdflow.errors import InputError
from mmdflow.flows.callbacks import Callback, callback_moves
from mmdflow.flows.integrators import Integrator, make_integrator, named_integrators
from mmdflow.flows.moves import Diffusion, Move, NoiseInjection
from mmdflow.flows.record import Record, as_record
from mmdflow.flows.state import FlowState
from mmdflow.types import ArrayLike, FlowResult, ScalarOrSchedule, Step

#: A velocity field, or a function of the step index (0, 1, ...) that returns one.
FieldOrSchedule: TypeAlias = VelocityField | Callable[[int], VelocityField]


def flow(
    field: FieldOrSchedule,
    particles: Float[Tensor, "n *event"] | ArrayLike,
    *,
    num_steps: int,
    step_size: ScalarOrSchedule | None = None,
    integrator: str | Integrator = "euler",
    momentum: ScalarOrSchedule | None = None,
    noise_injection: ScalarOrSchedule | Move | None = None,
    diffusion: ScalarOrSchedule | Move | None = None,
    moves: Move | Sequence[Move] = (),
    weights: Float[Tensor, " n"] | ArrayLike | None = None,
    save_every: int | Sequence[int] | Record | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
    sharded: bool = False,
) -> FlowResult:
    r"""Move particles along a velocity field, such as the Wasserstein gradient of a divergence.

    By default explicit Euler steps: x <- x - eta v,  v <- grad f(x + beta u) + momentum v,  u ~ N(0, I)
    (Arbel et al. 2019, noise injection; Hertrich et al. 2024, momentum, whose effective step is eta / (1 - momentum)).

    Args:
        field: what moves the particles: a `Divergence` F with its target, any other `VelocityField`, or a function of the step
            index 0, 1, ... that returns one; it is called once a step. F is evaluated where the field is a divergence.
        particles: the source, [n, *event], n >= 1; never modified. A tensor, a NumPy array, a list, or an array with DLPack, such
            as JAX's; the result holds arrays of the same kind (NumPy's for lists). The flow runs in the wider of the dtypes of
            particles and target; a target of fewer digits limits the velocity to its own.
        num_steps: steps to make, at least 0.
        step_size: eta, a number or a function of the step index. By default `field.usual_step()`, the rule of `mmdflow flow`: it
            follows the kernel's width or the target's spread, and brings its momentum along where none is given.
        integrator: what takes a step: an `Integrator` of `mmdflow.flows`, such as Heun() or Adaptive(tolerance=1e-3), which is
            not changed; or the name of one, such as "heun".
        momentum: short form, for integrators that are given by name and have one: in [0, 1), a number or a function of the step.
            "nesterov" needs one; for "adam" it is beta_1. 0 by default, unless the step is chosen, too.
        noise_injection: short form of `NoiseInjection(beta)`: the gradient is taken at x + beta u, off the support. It is not
            Langevin diffusion. A `DescentNoise` chooses beta by its descent condition.
        diffusion: short form of `Diffusion(scale)`: x receives scale u after the step (Langevin-like).
        moves: one or several `Move` objects of `mmdflow.flows`, such as BirthDeath(rate) or Reweighting(rate). They act in
            their order, after noise_injection and diffusion and before the callbacks.
        weights: of the particles, [n], non-negative; scaled to sum 1. 1/n each by default. They do not change how fast a particle
            moves, but how much it counts.
        save_every: record particles and F every so many steps, or after the steps of a list; the start and the end always are.
            A `Record` of `mmdflow.flows` says more: no F, or a file that takes the particles of large populations instead of
            memory. `values` is empty for fields without F. The F of a schedule is that of the step just made (at the start: of
            the first step).
        callback: one or several, called in turn after every step with (steps made, particles). Each may return a tensor of the
            same shape that replaces the particles (`mmdflow.flows.constraints`), True to stop, or None. One that has a
            `start(particles, weights)` is called with them when a flow begins; what its `report()` returns, if it has one, goes
            into the result's report.
        progress: show a bar.
        generator: of the random draws; on its own device.
        sharded: the particles and the field's target are this process's part of those of all ranks (`mmdflow.distributed`); the
            result holds its own particles, and the F of all. Equal to the flow of all of them in one process up to rounding.

    Returns:
        A `FlowResult`.

    Raises:
        InputError: for NaN or infinite particles, mismatched shapes, impossible settings, a move that needs more of the field
            than it has, a field without a usual step where none is given, a file of snapshots that is there already, or what a
            sharded flow cannot have.
        RankLostError: where another process of a sharded flow ends.
        DivergedError: when particles become non-finite: lower step_size; or when a recorded F is NaN.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian, flow
        >>> target = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> result = flow(MMD(target, Gaussian(1.0)), target + 1, step_size=1.0, num_steps=100)
        >>> bool(result.values[-1] < 0.1 * result.values[0])
        True
        >>> moved = flow(MMD([[1.0], [2.0]]), [[0.0], [5.0]], num_steps=200).particles  # kernel and step are chosen
        >>> type(moved).__name__, sorted(moved.ravel().round(1).tolist())
        ('ndarray', [1.0, 2.0])
    """
    ranks = current() if sharded else Ranks()
    field_at = _field_schedule(field, particles, ranks)
    _checks.count("num_steps", num_steps, 0)
    device_of(generator)  # refuses a seed
    give_back, x = _arrays.back(particles), _arrays.tensor("particles", particles)
    if step_size is None:
        chosen = field_at(0) if isinstance(field, VelocityField) else field
        step_size, momentum = usual_step(chosen, integrator, momentum)
    eta = _checks.schedule("step_size", step_size, _checks.non_negative)
    stepper = make_integrator(integrator, 0.0 if momentum is None else momentum)
    record = as_record(save_every).begin(ranks)
    actions = [
        *_short_form("noise_injection", noise_injection, NoiseInjection),
        *_short_form("diffusion", diffusion, Diffusion),
        *_given_moves(moves),
        *callback_moves(callback),
    ]
    _check_time(step_size, actions)
    _check_by_particle(ranks, stepper, actions)
    with torch.inference_mode(False), torch.no_grad():
        rows = Rows.of(ranks, len(x))
        state = _begin(field_at(0), x, weights, stepper, actions, ranks.common(generator), rows)
        with record.snapshots:
            record.add(0, state)
            for step in tqdm(range(num_steps), disable=not (progress and ranks.first), desc="flow", unit="step"):
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
        return record.result(state, report, give_back)


def _begin(
    field: VelocityField,
    particles: Tensor,
    weights: ArrayLike | None,
    integrator: Integrator,
    moves: Sequence[Move],
    generator: torch.Generator | None,
    rows: Rows,
) -> FlowState:
    """Return the state before the first step, after checking what the flow is made of."""
    seen = check_particles(field, particles)
    _check_needs(field, moves)
    x = particles.detach().to(torch.promote_types(particles.dtype, seen.dtype), copy=True)
    weighted = weights is not None or any(move.weighted for move in moves)
    given = x.new_ones(len(x)) if weights is None else weights
    state = FlowState(field, x, rows.weights(given, x) if weighted else None, integrator, generator, rows)
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
    state.stop = state.rows.ranks.any(state.stop)


def _check_shape(move: Move, state: FlowState, shape: torch.Size) -> None:
    """Raise InputError where a move changed the shape of the particles."""
    if state.particles.shape != shape:
        raise InputError(
            f"moves: {type(move).__name__} set particles of shape {list(state.particles.shape)}: must be {list(shape)}"
        )


def _check_time(step_size: ScalarOrSchedule, moves: Sequence[Move]) -> None:
    """Raise InputError where a move acts by the time of a step, and steps take none."""
    for move in moves:
        if move.timed and not callable(step_size) and step_size == 0:
            raise InputError(
                f"step_size = 0 with {type(move).__name__}: it acts in proportion to step_size, and would do nothing; "
                f"integrator=Rest() of mmdflow.flows keeps the particles in place while time passes"
            )


def _check_by_particle(ranks: Ranks, integrator: Integrator, moves: Sequence[Move]) -> None:
    """Raise InputError where a sharded flow would need what the particles of other ranks do."""
    parts: list[Integrator | Move] = [integrator, *moves]
    for part in parts:
        if ranks.size > 1 and not part.by_particle:
            raise InputError(
                f"sharded = True with {type(part).__name__}: looks at all particles, of which a rank has a part; leave it out"
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


def _field_schedule(field: FieldOrSchedule, particles: object, ranks: Ranks) -> Callable[[int], VelocityField]:
    """Return the field of every step, of the targets of all ranks."""
    given: object = field
    if isinstance(field, VelocityField) and not isinstance(field, type):
        whole = shard(field, ranks)
        return lambda step: whole
    if isinstance(particles, VelocityField):
        raise InputError(
            f"field is a {type(given).__name__.lower()} and particles a velocity field: the field comes first, flow(field, "
            f"particles)"
        )
    if isinstance(given, type):
        raise InputError(f"field = {given.__name__}, the class: must be an object of it, such as MMD(target, Riesz())")
    if not callable(given):
        raise InputError(
            f"field = {_checks.shown(given)}: must be a Divergence, such as MMD(target, Riesz()), another VelocityField, or a "
            f"function of the step that returns one"
        )

    def field_at(step: int) -> VelocityField:
        chosen = field(step)
        if not isinstance(chosen, VelocityField):
            raise InputError(
                f"field({step}) = {_checks.shown(chosen)}: must be a VelocityField, such as MMD(target, Riesz())"
            )
        return shard(chosen, ranks)

    return field_at


def usual_step(
    field: FieldOrSchedule, integrator: str | Integrator, momentum: ScalarOrSchedule | None = None
) -> tuple[float, ScalarOrSchedule | None]:
    """Return the step size that suits a field, and the momentum: the given one, or else the integrator's or the field's own.

    Raises:
        InputError: where the field has no rule for its step.
    """
    rule: Callable[[], Step | None] | None = getattr(field, "usual_step", None)
    step = None if rule is None else rule()
    if step is None:
        kernel = getattr(field, "kernel", None)
        of = "" if kernel is None else f" with kernel {type(kernel).__name__}"
        raise InputError(
            f"step_size is missing: no rule is known for {type(field).__name__}{of}; give a number, such as step_size=0.1"
        )
    if momentum is None and isinstance(integrator, str):
        kind = named_integrators()[_checks.choice("integrator", integrator, named_integrators())]
        momentum = kind.usual_momentum() or (step.momentum if kind.takes_momentum else None)
    return step.size, momentum


def _short_form(
    name: str, value: ScalarOrSchedule | Move | None, kind: Callable[[ScalarOrSchedule], Move]
) -> list[Move]:
    """Return the move that a number, a function of the step, or an object stands for."""
    if value is None or isinstance(value, Move):
        return [] if value is None else [value]
    return [kind(_checks.schedule(name, value, _checks.non_negative))]


def _given_moves(moves: Move | Sequence[Move]) -> list[Move]:
    several = list(moves) if isinstance(moves, Iterable) else [moves]
    for move in several:
        if not isinstance(move, Move):
            raise InputError(f"moves = {_checks.shown(move)}: must be Move objects, such as BirthDeath(0.5)")
    return several
