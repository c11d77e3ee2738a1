"""Callbacks of a flow: plain functions of (steps made, particles), as the last moves of every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from mmdflow import _arrays, _checks
from mmdflow.errors import InputError
from mmdflow.flows.moves import Move
from mmdflow.flows.state import FlowState

#: Called with (steps made, particles) after every step; returns particles that replace them, True to stop, or None.
Callback: TypeAlias = Callable[[int, Tensor], Tensor | bool | None]


@runtime_checkable
class Starts(Protocol):
    """A callback that is called when a flow begins."""

    def start(self, particles: Tensor, weights: Tensor | None) -> None:
        """Begin a flow: forget the last one, and check its particles."""
        ...


@runtime_checkable
class Reports(Protocol):
    """A callback that has something to say in the result's report."""

    def report(self) -> dict[str, Any]:
        """Return what the report shall hold."""
        ...


class CallbackMove(Move):
    """A callback as a move."""

    by_particle = True  # on each rank it sees that rank's particles

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def start(self, state: FlowState) -> None:
        """Begin a flow, where the callback is one that `Starts`."""
        listener: object = self.callback
        if isinstance(listener, Starts):
            listener.start(state.particles, state.weights)

    def after(self, state: FlowState) -> None:
        """Call it: a tensor replaces the particles, any other truth ends the flow."""
        answer = self.callback(state.step + 1, state.particles)
        if getattr(answer, "shape", ()):
            answer = _arrays.tensor("what callback returned", answer)
            if answer.shape != state.particles.shape:
                raise InputError(f"callback returned shape {list(answer.shape)}: must be {list(state.particles.shape)}")
            state.particles = answer.detach().to(state.particles)
        elif answer is not None:
            state.stop = state.stop or bool(answer)

    def report(self) -> dict[str, Any]:
        """Return the report of a callback that `Reports`."""
        speaker: object = self.callback
        return speaker.report() if isinstance(speaker, Reports) else {}


def callback_moves(callback: Callback | Sequence[Callback] | None) -> list[Move]:
    """Return one callback, several or none as moves."""
    if callback is None:
        return []
    given: Any = callback  # which may be a text, whatever is allowed
    callbacks = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for item in callbacks:
        if not callable(item):
            raise InputError(
                f"callback = {_checks.shown(item)}: must be a function of (steps made, particles), or several"
            )
    return [CallbackMove(item) for item in callbacks]
