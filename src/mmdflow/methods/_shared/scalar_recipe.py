"""The recipe of flows along the gradient of one learned function."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmdflow.errors import InputError
from mmdflow.methods._shared.settings import FlowChanges
from mmdflow.recipe.specs import BatchTrainingSpec, FeaturesSpec, Recipe


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
    sampling: FlowChanges = field(default_factory=FlowChanges)

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
        """Events a step."""
        return self.training.batch_size
