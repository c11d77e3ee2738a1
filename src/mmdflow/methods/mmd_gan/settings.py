"""Settings of MMD-GAN: of the game, and of the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmdflow import _settings


@dataclass(frozen=True)
class MMDGANLossSettings:
    """The game of MMD-GAN.

    Attributes:
        critic_steps: turns of the critic for each of the generator; each is a step of training.
        penalty_weight: weight of the critic's gradient penalty.
        l2_weight: weight of the critic's mean squared feature, over clean and generated events.
        critic_step_factor: the critic's step size over the generator's, training.step_size.
    """

    section: ClassVar[str] = "loss."
    critic_steps: int = 1
    penalty_weight: float = 1.0
    l2_weight: float = 0.0
    critic_step_factor: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _settings.check(
            self,
            counts=["critic_steps"],
            positive=["critic_step_factor"],
            non_negative=["penalty_weight", "l2_weight"],
        )


@dataclass(frozen=True)
class MMDGANSettings:
    """How an MMD-GAN samples.

    Attributes:
        sampler: generator: one evaluation of it; or flow, MMD-GAN-Flow: x <- x - eta grad f(x) from noise, f the converged
            critic's witness between particles and data.
        num_steps: steps of the flow.
        step_size: eta of the flow.
    """

    section: ClassVar[str] = "sampling."
    sampler: Literal["generator", "flow"] = "generator"
    num_steps: int = 100
    step_size: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        _settings.check(self, counts=["num_steps"], positive=["step_size"])


@dataclass(frozen=True)
class MMDGANSamplingSettings(MMDGANSettings):
    """How an MMD-GAN samples by default, and what the flow keeps of the data.

    Attributes:
        num_references: training events that the flow's target is made of; all by default.
    """

    num_references: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        _settings.check(self, counts=["num_references"])
