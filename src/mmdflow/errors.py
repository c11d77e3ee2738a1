"""The library's errors. Every message is one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mmdflow.types import SamplingMonitor


def reason(error: BaseException, most: int = 120) -> str:
    """Return what an error says on one line of at most `most` characters; its kind where it says nothing.

    Example:
        >>> reason(OSError("no room")), reason(EOFError())
        ('no room', 'EOFError')
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


class InputError(ValueError):
    """Bad input. The message names the field, the value and what is allowed.

    Example:
        >>> from mmdflow import Gaussian, InputError
        >>> try:
        ...     Gaussian(-1.0)
        ... except InputError as error:
        ...     print(error)
        bandwidth = -1.0: must be a finite number > 0
    """


class MissingPartError(InputError):
    """A data set that is there has no part of the name that was asked for, such as test."""


class DivergedError(RuntimeError):
    """A computation became non-finite. The message says where, and what to change.

    Attributes:
        particles: the last finite particles, [n, *event], where a sampler kept them; else None.
        monitor: what a watched run looked like until then.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, DivergedError, Linear, flow
        >>> try:
        ...     flow(MMD(torch.zeros(1, 1), Linear()), torch.ones(1, 1), step_size=1e30, num_steps=20)
        ... except DivergedError as error:
        ...     print("lower step_size" in str(error))
        True
    """

    def __init__(self, message: str, particles: Tensor | None = None, monitor: SamplingMonitor | None = None) -> None:
        super().__init__(message)
        self.particles, self.monitor = particles, monitor


class Terminated(KeyboardInterrupt):
    """SIGTERM came, by which systems stop a process: it is answered as Ctrl-C is."""


class RankLostError(RuntimeError):
    """Another process of a distributed run ended, or does not answer."""
