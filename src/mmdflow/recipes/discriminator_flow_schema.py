"""The recipe of discriminator flow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.recipes.schema import BatchTrainingSpec, FeaturesSpec, Recipe


@dataclass(frozen=True)
class DiscriminatorFlowLossSpec:
    """The flow and the loss; see `mmdflow.baselines.discriminator_flow.DiscriminatorFlowLoss`.

    Attributes:
        num_steps: n, steps of the flow.
        step_size: eta, of the whole flow, of which a step is eta / n.
        noise: standard deviation that the noise of the whole flow adds up to.
        objective: ipm, vanilla or hinge.
        penalty_weight: weight of the gradient penalty.
        penalty_slope: the slope that the penalty asks for.
        trajectories: pool (ours: kept particles, a step of the flow each training step) or fresh (the paper's).
    """

    num_steps: int = 64
    step_size: float = 2.0
    noise: float = 0.0
    objective: Literal["ipm", "vanilla", "hinge"] = "ipm"
    penalty_weight: float = 0.04
    penalty_slope: float = 0.0
    trajectories: Literal["pool", "fresh"] = "pool"

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.count("loss.num_steps", self.num_steps)
        _checks.positive("loss.step_size", self.step_size)
        for name in ("noise", "penalty_weight", "penalty_slope"):
            _checks.non_negative(f"loss.{name}", getattr(self, name))


@dataclass(frozen=True)
class DiscriminatorFlowSamplingSpec:
    """How a discriminator flow samples by default.

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
class DiscriminatorFlowRecipe(Recipe):
    """All of a run of discriminator flow.

    Attributes:
        description: what it is and what it costs, in a line.
        system: discriminator-flow.
        data: the data set.
        features: the network; its one number is the discriminator's.
        training: the training loop.
        evaluation: the evaluation.
        loss: the flow and the loss.
        sampling: the sampler.
    """

    system: Literal["discriminator-flow"] = "discriminator-flow"
    features: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(num_features=1))
    training: BatchTrainingSpec = field(default_factory=BatchTrainingSpec)
    loss: DiscriminatorFlowLossSpec = field(default_factory=DiscriminatorFlowLossSpec)
    sampling: DiscriminatorFlowSamplingSpec = field(default_factory=DiscriminatorFlowSamplingSpec)

    def __post_init__(self) -> None:
        """Check that the network has one output, whose gradient can be differentiated."""
        check_scalar_features(self)

    @property
    def batch_size(self) -> int:  # noqa: D102
        return self.training.batch_size

    def smallest(self) -> DiscriminatorFlowRecipe:  # noqa: D102
        return replace(self, training=replace(self.training, batch_size=1))


def check_scalar_features(recipe: Recipe) -> None:
    """Raise InputError unless the network of a recipe is a function of one value that can be differentiated twice."""
    features = recipe.features
    if features.num_features != 1:
        raise InputError(
            f"features.num_features = {features.num_features}: must be 1 for {recipe.system}, a function of one value"
        )
    if features.gradient == "semi":
        raise InputError(
            f"features.gradient = 'semi': must be full for {recipe.system}, whose particles move along a gradient"
        )
    if recipe.training.compile:
        raise InputError(f"training.compile = True: must be false for {recipe.system}; compiled networks have no double backward")
