"""The recipe of MMD-GAN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmdflow.errors import InputError
from mmdflow.methods._shared.recipes import EventRecipe
from mmdflow.methods.mmd_gan.settings import MMDGANLossSettings, MMDGANSamplingSettings
from mmdflow.recipe.specs import BaseSpec, BatchTrainingSpec, FeaturesSpec


@dataclass(frozen=True)
class MMDGANRecipe(EventRecipe):
    """All of a run of MMD-GAN; a step of the training is a turn of the critic or of the generator.

    Attributes:
        system: mmd-gan.
        features: the generator; its one event-shaped output is a sample.
        critic: the critic's features.
        bounded: keep what is generated in [-1, 1], through tanh; for images.
        base: the kernel on the critic's features.
        loss: the game.
        sampling: the sampler.
    """

    system: Literal["mmd-gan"] = "mmd-gan"
    critic: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(head="flat", num_features=16))
    bounded: bool = False
    base: BaseSpec = field(default_factory=BaseSpec)
    training: BatchTrainingSpec = field(default_factory=lambda: BatchTrainingSpec(betas=(0.5, 0.9)))
    loss: MMDGANLossSettings = field(default_factory=MMDGANLossSettings)
    sampling: MMDGANSamplingSettings = field(default_factory=MMDGANSamplingSettings)

    def __post_init__(self) -> None:
        """Check that the generator's output is one event, and that the critic can have a penalty on its slope."""
        super().__post_init__()
        if self.training.compile:
            raise InputError(
                "training.compile = True: must be false for mmd-gan; compiled critics have no double backward"
            )
        if self.training.batch_size < 2:
            raise InputError(
                f"training.batch_size = {self.training.batch_size}: must be at least 2 for an unbiased MMD"
            )

    @property
    def smallest_batch(self) -> int:
        """Two events, which an unbiased MMD needs."""
        return 2
