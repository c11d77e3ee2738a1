"""The recipe of JKO-Flow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow.methods._shared.recipes import EventRecipe
from mmdflow.methods.jko.settings import JKOLossSettings
from mmdflow.recipe.specs import BatchTrainingSpec


@dataclass(frozen=True)
class JKOFlowRecipe(EventRecipe):
    """All of a run of JKO-Flow.

    Attributes:
        system: jko-flow.
        features: the network of a map; its one event-shaped output is the displacement. The potential is the same network with
            a flat read-out.
        loss: the chain and the loss.
    """

    system: Literal["jko-flow"] = "jko-flow"
    training: BatchTrainingSpec = field(default_factory=lambda: BatchTrainingSpec(ema_decay=0.0))
    loss: JKOLossSettings = field(default_factory=JKOLossSettings)

    def __post_init__(self) -> None:
        """Check that a map's output is one event, and that the average is the last weights, through which pools are pushed."""
        super().__post_init__()
        self.check_no_average("its stages start where the maps, not their averages, leave the particles")

    def smallest(self) -> JKOFlowRecipe:
        """Return the recipe with one map and one particle."""
        return replace(self, loss=replace(self.loss, num_stages=1, pool_size=1))
