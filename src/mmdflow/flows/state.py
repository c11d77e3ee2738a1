"""What a flow has at hand while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.distributed import Rows
from mmdflow.divergences import Divergence, VelocityField
from mmdflow.divergences.base import dtype_of
from mmdflow.errors import InputError
from mmdflow.flows.integrators import Integrator


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
