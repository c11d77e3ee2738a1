"""The recipe of MMD-GAN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmdflow.errors import InputError
from mmdflow.methods.mmd_gan.settings import MMDGANLossSettings, MMDGANSamplingSettings
from mmdflow.recipe.specs import BaseSpec, BatchTrainingSpec, FeaturesSpec, Recipe, check_event_map


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
    loss: MMDGANLossSettings = field(default_factory=MMDGANLossSettings)
    sampling: MMDGANSamplingSettings = field(default_factory=MMDGANSamplingSettings)

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
    def batch_size(self) -> int:
        """Events a step."""
        return self.training.batch_size

    @property
    def smallest_batch(self) -> int:
        """Two events, which an unbiased MMD needs."""
        return 2
