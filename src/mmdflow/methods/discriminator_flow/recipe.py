"""The recipe of discriminator flow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow.methods._shared.scalar_recipe import ScalarRecipe
from mmdflow.methods.discriminator_flow.settings import DiscriminatorFlowLossSettings


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
    loss: DiscriminatorFlowLossSettings = field(default_factory=DiscriminatorFlowLossSettings)

    def smallest(self) -> DiscriminatorFlowRecipe:
        """Return the recipe with one event."""
        return replace(self, training=replace(self.training, batch_size=1))
