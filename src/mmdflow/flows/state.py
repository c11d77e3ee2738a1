"""What a flow has at hand while it runs, and what it records on its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.distributed import Rows
from mmdflow.divergences import Divergence, VelocityField
from mmdflow.divergences.base import dtype_of
from mmdflow.errors import DivergedError, InputError
from mmdflow.flows.integrators import Integrator
from mmdflow.flows.snapshots import Memory, Snapshots
from mmdflow.types import ArrayLike, FlowResult


@dataclass
class FlowState:
    """The state of a flow. Moves read it and change it.

    Attributes:
        field: the velocity field of this step.
        particles: [n, *event]; replace the tensor, do not write into it.
        weights: [n] with sum 1; None where all are 1/n.
        integrator: what takes the steps.
        generator: of the random draws.
        rows: where the particles lie among those of all ranks.
        step: the index of this step, 0, 1, ...
        step_size: eta of this step.
        elapsed: the flow time that this step took; known after it.
        time: the flow time until now.
        nfe: evaluations of the gradient until now.
        shift: what is added to the points at which the gradient of this step is taken, [n, *event]; None for nothing.
        stop: whether this step is the last one.
    """

    field: VelocityField
    particles: Tensor
    weights: Tensor | None
    integrator: Integrator
    generator: torch.Generator | None
    rows: Rows
    step: int = 0
    step_size: float = 0.0
    elapsed: float = 0.0
    time: float = 0.0
    nfe: int = 0
    shift: Tensor | None = None
    stop: bool = False

    def begin(self, step: int, step_size: float) -> None:
        """Begin a step."""
        self.step, self.step_size, self.shift = step, step_size, None

    def advance(self) -> None:
        """Let the integrator take the step."""
        made: object = self.integrator.step(self._shifted_gradient, self.particles, self.step_size, self.step)
        if not isinstance(made, tuple) or len(made) != 2:
            raise InputError(
                f"integrator = {type(self.integrator).__name__}: step must return (particles, flow time that passed)"
            )
        if made[0].shape != self.particles.shape:
            raise InputError(
                f"integrator = {type(self.integrator).__name__}: step returned particles of shape {list(made[0].shape)}: must "
                f"be {list(self.particles.shape)}"
            )
        self.particles, self.elapsed = made
        self.time += self.elapsed

    def gradient(self, x: Float[Tensor, "n *event"], at: Float[Tensor, "k *event"] | None = None) -> Tensor:
        """Return minus the velocity at `at` (default: at x), with the field frozen at x; counts one evaluation."""
        self.nfe += 1
        velocity = self.field.velocity(self._seen(x), None if at is None else self._seen(at), self._seen(self.weights))
        return -velocity.to(x.dtype)

    def _seen(self, x: Any) -> Any:
        """Return a tensor, or None, as the field takes it: in the dtype of its target."""
        dtype = dtype_of(self.field)
        return x if x is None or dtype is None else x.to(dtype)

    def _shifted_gradient(self, x: Tensor) -> Tensor:
        return self.gradient(x, None if self.shift is None else x + self.shift)

    def normal(self) -> Float[Tensor, "n *event"]:
        """Draw standard normal noise, one event a particle."""
        return self.rows.normal(self.particles, self.generator)

    def witness_values(self) -> Float[Tensor, " n"]:
        """Return the witness f at the particles, for moves with `needs_witness`."""
        witness = getattr(self.field, "witness", None)
        if witness is None:
            raise InputError(
                f"state.witness_values() with field {type(self.field).__name__}: it has no witness; a move that needs one sets "
                f"needs_witness = True"
            )
        x = self._seen(self.particles)
        f: Tensor = witness(x, self._seen(self.weights))(x)
        return f.to(self.particles.dtype)

    def divergence(self) -> Float[Tensor, ""]:
        """Return F at the particles, of a field that is a `Divergence`."""
        assert isinstance(self.field, Divergence)
        value: Tensor = self.field(self._seen(self.particles), self._seen(self.weights))
        return value.to(self.particles.dtype)

    def value(self, x: Float[Tensor, "n *event"]) -> float:
        """Return F at particles x, for moves with `needs_value`."""
        assert isinstance(self.field, Divergence)
        return float(self.field(self._seen(x), self._seen(self.weights)))

    def select(self, index: Tensor) -> None:
        """Replace every particle i by particle index[i], with what the integrator carries on for it."""
        self.particles = self.particles[index]
        self.integrator.select(index)


@dataclass
class Record:
    """What is recorded of a flow on its way.

    Attributes:
        due: whether the state after that many steps is recorded; the last one always is.
        evaluate: whether F is.
        snapshots: what takes the particles.
    """

    due: Callable[[int], bool]
    evaluate: bool
    snapshots: Memory | Snapshots
    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def add(self, steps_made: int, state: FlowState) -> None:
        """Record the state.

        Raises:
            DivergedError: where the particles are no longer finite, or F is NaN.
        """
        if state.rows.ranks.any(not _checks.all_finite(state.particles)):
            raise DivergedError(
                f"particles became non-finite by step {steps_made}: lower step_size ({state.step_size:g} here)"
            )
        self.steps.append(steps_made)
        self.times.append(state.time)
        self.snapshots.add(state.particles)
        if self.evaluate and isinstance(state.field, Divergence):
            value = state.divergence()
            if bool(value.isnan().any()):
                raise DivergedError(
                    f"F of {type(state.field).__name__} is NaN by step {steps_made}, where the particles are finite: their "
                    f"numbers, or the kernel's, leave the range of {state.particles.dtype}; use float64 or other units",
                    particles=state.particles,
                )
            self.values.append(value)

    def result(
        self, state: FlowState, report: dict[str, object], give_back: Callable[[Tensor], ArrayLike]
    ) -> FlowResult:
        """Return what the flow returns, as arrays of the kind that it was given, when all is recorded."""
        return FlowResult(
            particles=give_back(state.particles),
            values=give_back(torch.stack(self.values) if self.values else state.particles.new_empty(0)),
            trajectory=give_back(self.snapshots.trajectory()),
            steps=give_back(torch.tensor(self.steps)),
            nfe=state.nfe,
            times=give_back(torch.tensor(self.times, dtype=torch.float64)),
            weights=None if state.weights is None else give_back(state.weights),
            report=report,
        )
