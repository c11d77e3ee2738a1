"""The flow of the particles towards the target from which the networks learn: momentum, growing lengths, patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.divergences import Divergence, SlicedMMD
from mmdflow.divergences.witness import Witness
from mmdflow.flows import Record, flow
from mmdflow.methods.sliced_generator.settings import Simulation
from mmdflow.types import Particles, Points, Weights


def sliced_divergence(
    simulation: Simulation, target: Float[Tensor, "m *event"], generator: torch.Generator, *, patches: bool = True
) -> Divergence:
    """Return F for a target, with a CPU generator of its directions; on the simulation's patches if it has any.

    Args:
        simulation: the directions and patches.
        target: samples y, [m, *event].
        generator: of the directions, on the CPU.
        patches: whether patches are used.
    """

    def sliced(directions: str, patch: int | None) -> SlicedMMD:
        return SlicedMMD(
            target,
            simulation.num_directions,
            directions=directions,
            ranks=simulation.ranks,
            generator=generator,
            precision=simulation.precision,
            patch=patch,
        )

    if simulation.patches is None or not patches:
        return sliced(simulation.directions, None)
    return PatchScales([sliced("patches", side) for side in simulation.patches])


def simulate(
    simulation: Simulation, divergence: Divergence, particles: Float[Tensor, "n *event"], stage: int
) -> Float[Tensor, "n *event"]:
    """Return the particles after the T_l steps of a stage."""
    return flow(
        divergence,
        particles,
        step_size=simulation.step_size,
        num_steps=simulation.num_steps(stage),
        momentum=simulation.momentum,
        save_every=Record(evaluate=False),
    ).particles


class PatchScales(Divergence):
    """The sum of sliced MMDs to one target on patches of several sizes.

    Args:
        parts: one or more, of the same target.
    """

    def __init__(self, parts: Sequence[SlicedMMD]) -> None:
        super().__init__()
        self.parts = list(parts)
        self.event_shape = self.parts[0].event_shape

    @property
    def target(self) -> Float[Tensor, "m *event"]:
        """The target's samples."""
        return self.parts[0].target

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F with the directions of the last draw."""
        return torch.stack([part(x, weights) for part in self.parts]).sum()

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return the witness, frozen at the particles x, with the directions of the last draw."""
        return _SumWitness([part.witness(x, weights) for part in self.parts])

    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return -grad f, with f frozen at x, evaluated at `at` (default x), with new directions."""
        return torch.stack([part.velocity(x, at, weights) for part in self.parts]).sum(0)


@dataclass(frozen=True)
class _SumWitness:
    """f = sum of witnesses."""

    parts: list[Witness]

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        return torch.stack([part(z) for part in self.parts]).sum(0)

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        return torch.stack([part.grad(z) for part in self.parts]).sum(0)
