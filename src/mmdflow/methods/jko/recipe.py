"""The recipe of JKO-Flow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.recipe.specs import BatchTrainingSpec, FeaturesSpec, Recipe, check_event_map


@dataclass(frozen=True)
class JKOLossSpec:
    """The loss of JKO-Flow; see `mmdflow.methods.jko.JKOLoss`.

    Attributes:
        num_stages: JKO steps: maps of the chain, each with an equal share of the training.
        divergence: what descends: jensen-shannon, kl, kl-logistic, reverse-kl, chi2 or hinge (the authors' for images).
        jko_step: a, the length of a JKO step.
        dual_steps: steps of the potential for each of the map.
        penalty: weight of the potential's squared slope.
        clip: keep what maps give in [-1, 1]; for images.
        pool_size: particles of a stage.
        dual_factor: of training.step_size, for the potential.
    """

    num_stages: int = 4
    divergence: Literal["jensen-shannon", "kl", "kl-logistic", "reverse-kl", "chi2", "hinge"] = "kl-logistic"
    jko_step: float = 5.0
    dual_steps: int = 5
    penalty: float = 0.0
    clip: bool = True
    pool_size: int = 4096
    dual_factor: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("num_stages", "dual_steps", "pool_size"):
            _checks.count(f"loss.{name}", getattr(self, name))
        for name in ("jko_step", "dual_factor"):
            _checks.positive(f"loss.{name}", getattr(self, name))
        _checks.non_negative("loss.penalty", self.penalty)


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
    loss: JKOLossSpec = field(default_factory=JKOLossSpec)

    def __post_init__(self) -> None:
        """Check that a map's output is one event, and that the average is the last weights, through which pools are pushed."""
        check_event_map(self.features, self.system)
        if self.training.ema_decay != 0:
            raise InputError(
                f"training.ema_decay = {self.training.ema_decay!r}: must be 0 for {self.system}, whose stages start where the "
                f"maps, not their averages, leave the particles"
            )

    @property
    def batch_size(self) -> int:  # noqa: D102
        return self.training.batch_size

    def smallest(self) -> JKOFlowRecipe:  # noqa: D102
        return replace(self, loss=replace(self.loss, num_stages=1, pool_size=1))
