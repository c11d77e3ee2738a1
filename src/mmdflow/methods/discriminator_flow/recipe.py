"""The recipe of discriminator flow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow import _checks
from mmdflow.methods._shared.scalar_recipe import ScalarRecipe


@dataclass(frozen=True)
class DiscriminatorFlowLossSpec:
    """The flow and the loss; see `mmdflow.methods.discriminator_flow.DiscriminatorFlowLoss`.

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
class DiscriminatorFlowRecipe(ScalarRecipe):
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
    loss: DiscriminatorFlowLossSpec = field(default_factory=DiscriminatorFlowLossSpec)

    def smallest(self) -> DiscriminatorFlowRecipe:  # noqa: D102
        return replace(self, training=replace(self.training, batch_size=1))
