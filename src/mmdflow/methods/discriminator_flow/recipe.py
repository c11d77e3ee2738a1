"""The recipe of discriminator flow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow.methods._shared.recipes import ScalarRecipe
from mmdflow.methods.discriminator_flow.settings import DiscriminatorFlowLossSettings


@dataclass(frozen=True)
class DiscriminatorFlowRecipe(ScalarRecipe):
    """All of a run of discriminator flow.

    Attributes:
        system: discriminator-flow.
        features: the network; its one number is the discriminator's.
        loss: the flow and the loss.
    """

    system: Literal["discriminator-flow"] = "discriminator-flow"
    loss: DiscriminatorFlowLossSettings = field(default_factory=DiscriminatorFlowLossSettings)

    def smallest(self) -> DiscriminatorFlowRecipe:
        """Return the recipe with one event."""
        return replace(self, training=replace(self.training, batch_size=1))
