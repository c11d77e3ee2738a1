"""Recipes of methods whose network gives one event, or one number. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmdflow.errors import InputError
from mmdflow.methods._shared.settings import FlowChanges
from mmdflow.recipe.specs import BatchRecipe, FeaturesSpec, check_event_map


@dataclass(frozen=True)
class EventRecipe(BatchRecipe):
    """The recipe of a method whose network gives an event for an event.

    Attributes:
        features: the network; it has one event-shaped output.
    """

    features: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(num_features=1))

    def __post_init__(self) -> None:
        """Check that the network has one event-shaped output."""
        check_event_map(self.features, self.system)

    def check_no_average(self, reason: str) -> None:
        """Raise InputError if an average of the weights is kept, where the last weights are needed."""
        if self.training.ema_decay:
            raise InputError(f"training.ema_decay = {self.training.ema_decay:g}: must be 0 for {self.system}; {reason}")


@dataclass(frozen=True)
class ScalarRecipe(BatchRecipe):
    """The recipe of a method whose particles move along the gradient of a function of one value.

    Attributes:
        features: the network; its one number is the function's value.
        sampling: the sampler.
    """

    features: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(head="flat", num_features=1))
    sampling: FlowChanges = field(default_factory=FlowChanges)

    def __post_init__(self) -> None:
        """Check that the network has one output, whose gradient can be differentiated."""
        features = self.features
        if features.num_features != 1:
            raise InputError(
                f"features.num_features = {features.num_features}: must be 1 for {self.system}, a function of one value"
            )
        if self.training.compile:
            raise InputError(
                f"training.compile = True: must be false for {self.system}; compiled networks have no double backward"
            )
