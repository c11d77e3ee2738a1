"""The recipes of denoisers: DDPM and flow matching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.recipe.specs import BatchTrainingSpec, FeaturesSpec, Recipe, check_event_map


@dataclass(frozen=True)
class DDPMLossSpec:
    """The loss of DDPM; see `mmdflow.methods.denoising.DenoisingLoss`.

    Attributes:
        t_min: lowest noise level.
        t_max: highest noise level.
        level_power: below 1 draws more high noise levels, 1 uniform ones.
    """

    t_min: float = 0.001
    t_max: float = 1.0
    level_power: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.interval("loss.t_min", self.t_min, 0.0, 1.0, "[)")
        _checks.interval("loss.t_max", self.t_max, self.t_min, 1.0, "(]")
        _checks.positive("loss.level_power", self.level_power)


@dataclass(frozen=True)
class FlowMatchingLossSpec(DDPMLossSpec):
    """The loss of flow matching; see `mmdflow.methods.denoising.DenoisingLoss`."""

    t_min: float = 0.0


@dataclass(frozen=True)
class DDPMSamplingSpec:
    """How a DDPM samples by default.

    Attributes:
        num_levels: steps, a divisor of 1000.
        sampler: ancestral or ddim.
        clip: keep the predicted clean sample in [-1, 1]; for images.
    """

    num_levels: int = 100
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    clip: bool = True

    def __post_init__(self) -> None:
        """Check the number."""
        if 1000 % _checks.count("sampling.num_levels", self.num_levels):
            raise InputError(f"sampling.num_levels = {self.num_levels}: must divide 1000, the steps of the diffusion")


@dataclass(frozen=True)
class FlowMatchingSamplingSpec:
    """How flow matching samples by default.

    Attributes:
        num_levels: steps from noise to data.
        sampler: euler or heun, which evaluates the network twice a step.
    """

    num_levels: int = 50
    sampler: Literal["euler", "heun"] = "euler"

    def __post_init__(self) -> None:
        """Check the number."""
        _checks.count("sampling.num_levels", self.num_levels)


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
    loss: DDPMLossSpec = field(default_factory=DDPMLossSpec)
    sampling: DDPMSamplingSpec = field(default_factory=DDPMSamplingSpec)


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
    loss: FlowMatchingLossSpec = field(default_factory=FlowMatchingLossSpec)
    sampling: FlowMatchingSamplingSpec = field(default_factory=FlowMatchingSamplingSpec)
