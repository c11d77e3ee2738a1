"""Types shared by every room of the library: schedules of a scalar, the result of a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: A number, or a function of the step index (0, 1, ...) that returns one.
ScalarOrSchedule: TypeAlias = float | Callable[[int], float]


@dataclass(frozen=True)
class FlowResult:
    """What a flow returns.

    Attributes:
        particles: the particles after the last step, [n, *event].
        values: the divergence F at each recorded step, [S]; empty when it was not asked for.
        trajectory: the particles at each recorded step, [S, n, *event].
        steps: the recorded step indices, [S]; 0 is the start, the last one is the number of steps made.
        nfe: evaluations of the witness gradient per particle that were made.
        times: the flow time at each recorded step, the sum of the step sizes until then, [S].
        weights: the particles' weights after the last step, [n]; None where all are 1/n.
        report: what callbacks and noise injection have to say (see their `report`), such as the p-value of a test.
    """

    particles: Float[Tensor, "n *event"]
    values: Float[Tensor, " V"]
    trajectory: Float[Tensor, "S n *event"]
    steps: Int[Tensor, " S"]
    nfe: int
    times: Float[Tensor, " T"] = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    weights: Float[Tensor, " n"] | None = None
    report: dict[str, Any] = field(default_factory=dict)
