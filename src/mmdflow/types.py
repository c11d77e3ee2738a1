"""Types shared by every room of the library: particles, schedules of a scalar, the result of a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Particles x.
Particles: TypeAlias = Float[Tensor, "n *event"]
#: The particles' weights.
Weights: TypeAlias = Float[Tensor, " n"]
#: Points z at which something is evaluated.
Points: TypeAlias = Float[Tensor, "k *event"]
#: A number, or a function of the step index (0, 1, ...) that returns one.
ScalarOrSchedule: TypeAlias = float | Callable[[int], float]


@dataclass(frozen=True)
class FlowResult:
    """What a flow returns.

    Attributes:
        particles: the particles after the last step, [n, *event].
        values: the divergence F at each recorded step, [S]; empty where the field has no F, and with evaluate=False.
        trajectory: the particles at each recorded step, [S, n, *event].
        steps: the recorded step indices, [S]; 0 is the start, the last one is the number of steps made.
        nfe: evaluations of the witness gradient per particle that were made.
        times: the flow time at each recorded step, the sum of the step sizes until then, [S].
        weights: the particles' weights after the last step, [n]; None where all are 1/n.
        report: what callbacks and moves report (see their `report`), such as the p-value of a test.
    """

    particles: Float[Tensor, "n *event"]
    values: Float[Tensor, " V"]
    trajectory: Float[Tensor, "S n *event"]
    steps: Int[Tensor, " S"]
    nfe: int
    times: Float[Tensor, " T"] = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    weights: Float[Tensor, " n"] | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return a line."""
        value = f", F = {float(self.values[-1]):.4g}" if len(self.values) else ""
        return f"FlowResult({list(self.particles.shape)}, {int(self.steps[-1])} steps, NFE {self.nfe}{value})"


@dataclass(frozen=True)
class SamplingMonitor:
    """What a DMMD sampling run looked like at each of its noise levels, from the first, t_max.

    Attributes:
        levels: the noise levels t, [T].
        slope: mean |grad f| over particles and steps, before it was limited, [T].
        mismatch: MMD^2 between the particles that enter the level and the noised data P_t, [T]; for a linear base
            |mean phi(Z, t) - mean phi(X_t, t)|^2.
        relative_mismatch: the same, in units of the MMD^2 between noised and clean data, [T].
        participation: participation ratio of the entering particles' features, between 1 (one direction) and K, [T].
        limited: share of gradients that were shortened to max_slope, [T].
    """

    levels: Float[Tensor, " T"]
    slope: Float[Tensor, " T"]
    mismatch: Float[Tensor, " T"]
    relative_mismatch: Float[Tensor, " T"]
    participation: Float[Tensor, " T"]
    limited: Float[Tensor, " T"]

    def columns(self) -> dict[str, list[float]]:
        """Return the columns as lists of numbers, for JSON."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}
