"""The recipe of JKO-Flow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow.errors import InputError
from mmdflow.methods.jko.settings import JKOLossSettings
from mmdflow.recipe.specs import BatchTrainingSpec, FeaturesSpec, Recipe, check_event_map


@dataclass(frozen=True)
class JKOFlowRecipe(Recipe):
    """All of a run of JKO-Flow.

    Attributes:
        description: what it is and what it costs, in a line.
        system: jko-flow.
        data: the data set.
        features: the network of a map; its one event-shaped output is the displacement. The potential is the same network with
            a flat read-out.
        training: the training loop.
        evaluation: the evaluation.
        loss: the chain and the loss.
    """

    system: Literal["jko-flow"] = "jko-flow"
    features: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(num_features=1))
    training: BatchTrainingSpec = field(default_factory=lambda: BatchTrainingSpec(ema_decay=0.0))
    loss: JKOLossSettings = field(default_factory=JKOLossSettings)

    def __post_init__(self) -> None:
        """Check that a map's output is one event, and that the average is the last weights, through which pools are pushed."""
        check_event_map(self.features, self.system)
        if self.training.ema_decay != 0:
            raise InputError(
                f"training.ema_decay = {self.training.ema_decay!r}: must be 0 for {self.system}, whose stages start where the "
                f"maps, not their averages, leave the particles"
            )

    @property
    def batch_size(self) -> int:
        """Events a step."""
        return self.training.batch_size

    def smallest(self) -> JKOFlowRecipe:
        """Return the recipe with one map and one particle."""
        return replace(self, loss=replace(self.loss, num_stages=1, pool_size=1))
