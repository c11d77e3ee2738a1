"""What the recipes of flows along the gradient of one learned function share."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.recipe.specs import BatchTrainingSpec, FeaturesSpec, Recipe


@dataclass(frozen=True)
class ScalarSamplingSpec:
    """How particles are sampled by default.

    Attributes:
        num_steps: steps of the flow; those of the training by default.
        step_size: eta; that of the training by default.
    """

    num_steps: int | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.num_steps is not None:
            _checks.count("sampling.num_steps", self.num_steps)
        if self.step_size is not None:
            _checks.positive("sampling.step_size", self.step_size)


@dataclass(frozen=True)
class ScalarRecipe(Recipe):
    """The recipe of a system whose particles move along the gradient of a function of one value.

    Attributes:
        features: the network; its one number is the function's value.
        training: the training loop.
        sampling: the sampler.
    """

    features: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(head="flat", num_features=1))
    training: BatchTrainingSpec = field(default_factory=BatchTrainingSpec)
    sampling: ScalarSamplingSpec = field(default_factory=ScalarSamplingSpec)

    def __post_init__(self) -> None:
        """Check that the network has one output, whose gradient can be differentiated."""
        features = self.features
        if features.num_features != 1:
            raise InputError(
                f"features.num_features = {features.num_features}: must be 1 for {self.system}, a function of one value"
            )
        if features.gradient == "semi":
            raise InputError(
                f"features.gradient = 'semi': must be full for {self.system}, whose particles move along a gradient"
            )
        if self.training.compile:
            raise InputError(
                f"training.compile = True: must be false for {self.system}; compiled networks have no double backward"
            )

    @property
    def batch_size(self) -> int:
        return self.training.batch_size
