"""New points along the flow that others made: a recorded field, and its replay."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from mmdflow._tensors import along
from mmdflow.divergences import VelocityField
from mmdflow.divergences.base import check_particles, dtype_of, spread_of, takes_arrays
from mmdflow.errors import InputError
from mmdflow.flows.integrators import Euler, Integrator, make_integrator
from mmdflow.types import ArrayLike, Particles, Points, Step, Weights

#: Iterations for a step that is undone.
_MOST = 60


class Frozen(NamedTuple):
    """An evaluation of a field: the particles, their weights, and the state of the generator if it drew (directions)."""

    particles: Tensor
    weights: Tensor | None
    state: Tensor | None


class Recording:
    """A velocity field that remembers where it was evaluated, so that further points can follow the same flow.

    The points of a replay feel the recorded particles, and neither each other nor themselves. A point that starts where a
    particle did goes where it went, with every integrator that treats each particle for itself: all but `Adaptive`. A recording
    is of one flow, and holds the particles of every evaluation, [nfe, n, *event].

    Args:
        field: the field. Directions that it draws from a CPU generator are drawn again in a replay.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian, flow
        >>> x, settings = torch.tensor([[0.0], [1.0]]), {"step_size": 0.5, "momentum": 0.5, "num_steps": 20}
        >>> recording = Recording(MMD(torch.tensor([[2.0], [3.0]]), Gaussian(1.0)))
        >>> moved = flow(recording, x, **settings).particles
        >>> again = flow(recording.replay(), x[1:], **settings).particles
        >>> bool((again - moved[1:]).abs() < 1e-6)
        True
    """

    def __init__(self, field: VelocityField) -> None:
        self.field, self.dtype = field, dtype_of(field)
        self.frozen: list[Frozen] = []

    def check(self, x: Tensor | ArrayLike, name: str = "particles") -> Tensor:
        """Return x as the field takes it."""
        return check_particles(self.field, x, name)

    def usual_step(self) -> Step | None:
        """Return the step that suits the field."""
        rule: Any = getattr(self.field, "usual_step", None)
        step: Step | None = None if rule is None else rule()
        return step

    @takes_arrays
    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return the velocity, and remember the particles."""
        before = _state(self.field)
        velocity = self.field.velocity(x, at, weights)
        drew = not torch.equal(before, _state(self.field))
        self.frozen.append(Frozen(x, weights, before if drew else None))
        return velocity

    def replay(self) -> Replay:
        """Return the field of further points, for one flow with the same integrator, steps and step sizes."""
        return Replay(self.field, self.frozen)

    def rewind(
        self, ends: Points, *, step_size: float, num_steps: int, integrator: str | Integrator = "euler"
    ) -> tuple[Points, Bool[Tensor, " n"]]:
        r"""Return where points started that a replay takes to `ends`, and which of them were found.

        Each step $y = \Phi_k(z)$ is solved for z, the last first, by $z \leftarrow z + y - \Phi_k(z)$, which converges where
        the step size times the Lipschitz constant of the velocity is below 1. A point is found if a replay from its start ends
        within 1e-3 (of float64; else 1e-2) of the spread of the particles.

        Args:
            ends: [n, *event].
            step_size: of the recorded flow.
            num_steps: of it.
            integrator: of it; one that remembers nothing of the steps before: Euler without momentum, or Heun.

        Raises:
            InputError: for an integrator that remembers.
        """
        stepper = make_integrator(integrator)
        if stepper.per_particle and not (type(stepper) is Euler and stepper.momentum == 0):
            raise InputError(
                f"integrator = {integrator!r}: its steps depend on the steps before, which end points do not know; only "
                f"integrator='euler' without momentum, and 'heun', can be rewound"
            )
        per_step, eps = len(self.frozen) // num_steps, torch.finfo(ends.dtype).eps
        scale = spread_of(self.frozen[-1].particles)

        def step(k: int, z: Tensor) -> Tensor:
            part = Replay(self.field, self.frozen[k * per_step : (k + 1) * per_step])
            return copy(stepper).step(lambda x: -part.velocity(x), z, step_size, k)[0]

        with torch.no_grad():
            z = ends
            for k in reversed(range(num_steps)):
                z = _solved(partial(step, k), z, 100 * eps * scale)
            again = z
            for k in range(num_steps):
                again = step(k, again)
        near = (1e-3 if ends.dtype == torch.float64 else 1e-2) * scale
        return z, (again - ends).flatten(1).abs().amax(1) <= near


class Replay:
    """The field of points that follow a recorded flow; made by `Recording.replay`.

    Args:
        field: that was recorded.
        frozen: its evaluations in turn.
    """

    def __init__(self, field: VelocityField, frozen: list[Frozen]) -> None:
        self.field, self.dtype, self.frozen = field, dtype_of(field), frozen
        self.count = 0

    def check(self, x: Tensor | ArrayLike, name: str = "particles") -> Tensor:
        """Return x as the field takes it."""
        return check_particles(self.field, x, name)

    @takes_arrays
    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return the velocity at x, or at `at`, of the particles as they were at this evaluation.

        Raises:
            InputError: after more evaluations than were recorded.
        """
        if self.count == len(self.frozen):
            raise InputError(
                f"the recorded flow made {self.count} evaluations: a replay has the same integrator and num_steps, and one flow"
            )
        particles, held, state = self.frozen[self.count]
        self.count += 1
        if state is None:
            return self.field.velocity(particles, x if at is None else at, held)
        now = _state(self.field)
        _set_state(self.field, state)
        try:
            return self.field.velocity(particles, x if at is None else at, held)
        finally:
            _set_state(self.field, now)


def _solved(step: Callable[[Tensor], Tensor], y: Tensor, tolerance: float) -> Tensor:
    """Return z with step(z) = y, as near as the iteration comes, event by event."""
    z = best = y
    least = y.new_full((len(y),), torch.inf)
    for _ in range(_MOST):
        residual = y - step(z)
        size = residual.flatten(1).abs().amax(1)
        better = size < least
        best, least = torch.where(along(better, z), z, best), torch.where(better, size, least)
        if bool((least <= tolerance).all()):
            break
        z = z + residual
    return best


def _state(field: VelocityField) -> Tensor:
    """Return the state of the generator that a field draws from: its own, or torch's."""
    own = getattr(field, "generator", None)
    return own.get_state() if isinstance(own, torch.Generator) else torch.get_rng_state()


def _set_state(field: VelocityField, state: Tensor) -> None:
    own = getattr(field, "generator", None)
    if isinstance(own, torch.Generator):
        own.set_state(state)
    else:
        torch.set_rng_state(state)
