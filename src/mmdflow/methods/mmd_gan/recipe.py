"""The recipe of MMD-GAN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.recipe.specs import BaseSpec, BatchTrainingSpec, FeaturesSpec, Recipe, check_event_map


@dataclass(frozen=True)
class MMDGANLossSpec:
    """The game of MMD-GAN; see `mmdflow.methods.mmd_gan.MMDGANLoss`.

    Attributes:
        critic_steps: turns of the critic for each of the generator; each is a step of training.
        penalty_weight: weight of the critic's gradient penalty.
        l2_weight: weight of the critic's mean squared features.
        critic_step_factor: the critic's step size over the generator's, training.step_size.
    """

    critic_steps: int = 1
    penalty_weight: float = 1.0
    l2_weight: float = 0.0
    critic_step_factor: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.count("loss.critic_steps", self.critic_steps)
        _checks.non_negative("loss.penalty_weight", self.penalty_weight)
        _checks.non_negative("loss.l2_weight", self.l2_weight)
        _checks.positive("loss.critic_step_factor", self.critic_step_factor)


@dataclass(frozen=True)
class MMDGANSamplingSpec:
    """How an MMD-GAN samples by default.

    Attributes:
        sampler: generator, or flow (MMD-GAN-Flow).
        num_steps: steps of the flow.
        step_size: eta of the flow.
        num_references: training events that the flow's target is made of; all when not given.
    """

    sampler: Literal["generator", "flow"] = "generator"
    num_steps: int = 100
    step_size: float = 0.1
    num_references: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.count("sampling.num_steps", self.num_steps)
        _checks.positive("sampling.step_size", self.step_size)
        if self.num_references is not None:
            _checks.count("sampling.num_references", self.num_references)


@dataclass(frozen=True)
class MMDGANRecipe(Recipe):
    """All of a run of MMD-GAN.

    Attributes:
        description: what it is and what it costs, in a line.
        system: mmd-gan.
        data: the data set.
        features: the generator; its one event-shaped output is a sample.
        critic: the critic's features.
        bounded: keep what is generated in [-1, 1], through tanh; for images.
        base: the kernel on the critic's features.
        training: the training loop; a step is a turn of the critic or of the generator.
        evaluation: the evaluation.
        loss: the game.
        sampling: the sampler.
    """

    system: Literal["mmd-gan"] = "mmd-gan"
    features: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(num_features=1))
    critic: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(head="flat", num_features=16))
    bounded: bool = False
    base: BaseSpec = field(default_factory=BaseSpec)
    training: BatchTrainingSpec = field(default_factory=lambda: BatchTrainingSpec(betas=(0.5, 0.9)))
    loss: MMDGANLossSpec = field(default_factory=MMDGANLossSpec)
    sampling: MMDGANSamplingSpec = field(default_factory=MMDGANSamplingSpec)

    def __post_init__(self) -> None:
        """Check that the generator's output is one event, and that the critic can have a penalty on its slope."""
        check_event_map(self.features, self.system)
        if self.critic.gradient is not None:
            raise InputError(f"critic.gradient = {self.critic.gradient!r}: not a field of mmd-gan")
        if self.training.compile:
            raise InputError(
                "training.compile = True: must be false for mmd-gan; compiled critics have no double backward"
            )
        if self.training.batch_size < 2:
            raise InputError(
                f"training.batch_size = {self.training.batch_size}: must be at least 2 for an unbiased MMD"
            )

    @property
    def batch_size(self) -> int:  # noqa: D102
        return self.training.batch_size

    @property
    def smallest_batch(self) -> int:  # noqa: D102
        return 2
