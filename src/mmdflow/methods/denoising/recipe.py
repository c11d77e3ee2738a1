"""The recipes of denoisers: DDPM and flow matching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmdflow.methods.denoising.settings import (
    DDPMLossSettings,
    DDPMSettings,
    FlowMatchingLossSettings,
    FlowMatchingSettings,
)
from mmdflow.recipe.specs import BatchTrainingSpec, FeaturesSpec, Recipe, check_event_map


@dataclass(frozen=True)
class _DenoisingRecipe(Recipe):
    """What both denoisers share; `features` is the network whose one event-shaped output is the prediction."""

    features: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(num_features=1))
    training: BatchTrainingSpec = field(default_factory=BatchTrainingSpec)

    def __post_init__(self) -> None:
        """Check that the network's output is one event, and is given nothing that only features have."""
        check_event_map(self.features, self.system)

    @property
    def batch_size(self) -> int:
        return self.training.batch_size


@dataclass(frozen=True)
class DDPMRecipe(_DenoisingRecipe):
    """All of a DDPM run.

    Attributes:
        description: what it is and what it costs, in a line.
        system: ddpm.
        schedule: the forward diffusion: ddpm, vp or cosine.
        data: the data set.
        features: the network; its one event-shaped output is the noise.
        training: the training loop.
        evaluation: the evaluation.
        loss: the loss.
        sampling: the sampler.
    """

    system: Literal["ddpm"] = "ddpm"
    schedule: Literal["ddpm", "vp", "cosine"] = "ddpm"
    loss: DDPMLossSettings = field(default_factory=DDPMLossSettings)
    sampling: DDPMSettings = field(default_factory=DDPMSettings)


@dataclass(frozen=True)
class FlowMatchingRecipe(_DenoisingRecipe):
    """All of a run of flow matching.

    Attributes:
        description: what it is and what it costs, in a line.
        system: flow-matching.
        schedule: the straight path: linear.
        data: the data set.
        features: the network; its one event-shaped output is the velocity.
        training: the training loop.
        evaluation: the evaluation.
        loss: the loss.
        sampling: the sampler.
    """

    system: Literal["flow-matching"] = "flow-matching"
    schedule: Literal["linear"] = "linear"
    loss: FlowMatchingLossSettings = field(default_factory=FlowMatchingLossSettings)
    sampling: FlowMatchingSettings = field(default_factory=FlowMatchingSettings)
