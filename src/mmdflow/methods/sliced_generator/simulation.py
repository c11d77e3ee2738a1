"""The flow of the particles towards the target from which the networks learn: momentum, growing lengths, patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.divergences import Divergence, SlicedMMD
from mmdflow.divergences.witness import Witness
from mmdflow.errors import InputError
from mmdflow.flows import flow


@dataclass(frozen=True)
class Simulation:
    r"""Steps x <- x - tau v, v <- grad f(x) + momentum v of the sliced MMD flow, F with the kernel -|x - y| (paper, section 3).

    The flow that network l = 0, 1, ... imitates has T_l steps: T_0 = `first_steps`, and
    T_{l+1} = min(T_l + min((growth - 1) T_l, max_added), max_steps), the published rule at growth 2. Directions are drawn anew
    at every step; the velocity v starts at 0 in each of the flows.

    Attributes:
        num_particles: N.
        num_directions: P.
        directions: see `mmdflow.SlicedMMD`; "random" ones are the paper's.
        ranks: exact or binned.
        precision: full or bfloat16.
        step_size: tau. Velocities do not grow with the data: data twice as wide need twice the step.
        momentum: in [0, 1).
        first_steps: T_0.
        growth: factor of the lengths while they are short.
        max_added: bound on how much longer than the one before a flow is.
        max_steps: bound on T_l.
        patches: sides of square patches of images, at full resolution, on which directions live (locally connected
            projections); whole images by default.
    """

    num_particles: int = 2000
    num_directions: int = 64
    directions: str = "orthogonal"
    ranks: str = "exact"
    precision: str = "full"
    step_size: float = 1.0
    momentum: float = 0.7
    first_steps: int = 32
    growth: float = 2.0
    max_added: int = 2048
    max_steps: int = 30_000
    patches: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("num_particles", "num_directions", "first_steps", "max_added", "max_steps"):
            _checks.count(f"flow.{name}", getattr(self, name))
        _checks.positive("flow.step_size", self.step_size)
        _checks.interval("flow.momentum", self.momentum, 0.0, 1.0, "[)")
        if _checks.positive("flow.growth", self.growth) < 1:
            raise InputError(f"flow.growth = {self.growth:g}: must be a finite number >= 1")
        if self.patches is not None:
            _checks.count("number of flow.patches", len(self.patches))
            for side in self.patches:
                _checks.count("flow.patches", side)

    def num_steps(self, stage: int) -> int:
        """Return T_l for l = stage."""
        steps = float(self.first_steps)
        for _ in range(stage):
            steps += min((self.growth - 1) * steps, self.max_added)
        return min(int(steps), self.max_steps)

    def divergence(
        self, target: Float[Tensor, "m *event"], generator: torch.Generator, *, patches: bool = True
    ) -> Divergence:
        """Return F for a target, with a CPU generator of its directions; on patches if there are any."""

        def sliced(directions: str, patch: int | None) -> SlicedMMD:
            return SlicedMMD(
                target,
                self.num_directions,
                directions=directions,
                ranks=self.ranks,
                generator=generator,
                precision=self.precision,
                patch=patch,
            )

        if self.patches is None or not patches:
            return sliced(self.directions, None)
        return PatchScales([sliced("patches", side) for side in self.patches])

    def run(
        self, divergence: Divergence, particles: Float[Tensor, "n *event"], stage: int
    ) -> Float[Tensor, "n *event"]:
        """Return the particles after the T_l steps of a stage."""
        return flow(
            divergence,
            particles,
            step_size=self.step_size,
            num_steps=self.num_steps(stage),
            momentum=self.momentum,
            evaluate=False,
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

    def velocity(
        self,
        x: Float[Tensor, "n *event"],
        at: Float[Tensor, "k *event"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "k *event"]:
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
