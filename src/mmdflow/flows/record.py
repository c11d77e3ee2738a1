"""What a flow records on its way: when, whether F too, and where the particles go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mmdflow import _checks
from mmdflow.distributed import Ranks
from mmdflow.divergences import Divergence
from mmdflow.errors import DivergedError, InputError
from mmdflow.flows.snapshots import Memory, Snapshots
from mmdflow.flows.state import FlowState
from mmdflow.types import ArrayLike, FlowResult


@dataclass(frozen=True)
class Record:
    """What `flow` records, as its `save_every` takes it. The start and the end always are.

    Attributes:
        every: record every so many steps, or after the steps of a list.
        evaluate: whether to compute F at the recorded steps; without it `values` is empty.
        snapshots: a new .npy file that takes the recorded particles instead of memory, for large populations; or a `Snapshots`.

    Raises:
        InputError: for steps that are no whole numbers, or a file that does not end in .npy.

    Example:
        >>> from mmdflow import MMD, flow
        >>> from mmdflow.flows import Record
        >>> result = flow(MMD([[1.0]]), [[0.0], [2.0]], num_steps=40, save_every=Record(20, evaluate=False))
        >>> result.steps, len(result.values)
        (array([ 0, 20, 40]), 0)
    """

    every: int | Sequence[int] | None = None
    evaluate: bool = True
    snapshots: str | Path | Snapshots | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        _steps("every", self.every)
        if isinstance(self.snapshots, str | Path):
            object.__setattr__(self, "snapshots", Snapshots(self.snapshots))

    def begin(self, ranks: Ranks) -> Recorder:
        """Return what records one flow on the ranks.

        Raises:
            InputError: for a file of snapshots on several ranks.
        """
        if self.snapshots is not None and ranks.size > 1:
            raise InputError(f"snapshots with sharded = True on {ranks.size} processes: must be None; each has a part")
        assert not isinstance(self.snapshots, str | Path)
        return Recorder(self, Memory() if self.snapshots is None else self.snapshots, _steps("every", self.every))


def as_record(save_every: int | Sequence[int] | Record | None) -> Record:
    """Return the record that a number of steps, a list of steps, or an object stands for."""
    if isinstance(save_every, Record):
        return save_every
    _steps("save_every", save_every)  # under the name that the call has
    return Record(save_every)


def _steps(name: str, every: int | Sequence[int] | None) -> Callable[[int], bool]:
    """Return whether the state after that many steps is recorded."""
    if every is None:
        return lambda step: False
    if isinstance(every, Iterable):
        chosen = {_checks.count(name, step, 0) for step in every}
        return lambda step: step in chosen
    number = _checks.count(name, every)
    return lambda step: step % number == 0


@dataclass
class Recorder:
    """What was recorded of a flow until now.

    Attributes:
        record: what is.
        snapshots: what takes the particles.
        due: whether the state after that many steps is recorded.
    """

    record: Record
    snapshots: Memory | Snapshots
    due: Callable[[int], bool]
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
        if self.record.evaluate and isinstance(state.field, Divergence):
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
