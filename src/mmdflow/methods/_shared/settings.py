"""Settings that several methods have: flows along a learned gradient, and chains of networks. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmdflow import _settings
from mmdflow.errors import InputError


@dataclass(frozen=True)
class FlowChanges:
    """What sampling changes of the flow that a network was trained with.

    Attributes:
        num_steps: steps of the flow; those of the training by default.
        step_size: eta; that of the training by default.
    """

    section: ClassVar[str] = "sampling."
    num_steps: int | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        _settings.check(self, counts=["num_steps"], positive=["step_size"])


@dataclass(frozen=True)
class ChainSettings:
    """How a chain of networks samples.

    Attributes:
        num_networks: networks that are applied, from the first; all by default.
        sampler: chain; there is one.
    """

    section: ClassVar[str] = "sampling."
    num_networks: int | None = None
    sampler: Literal["chain"] = "chain"

    def __post_init__(self) -> None:
        """Check the fields."""
        _settings.check(self, counts=["num_networks"])

    def count(self, available: int, limit: str) -> int:
        """Return how many networks are applied, of those that there are.

        Raises:
            InputError: if there are fewer; `limit` says what they are.
        """
        if self.num_networks is not None and self.num_networks > available:
            raise InputError(f"num_networks = {self.num_networks}: must be at most {available}, {limit}")
        return available if self.num_networks is None else self.num_networks
