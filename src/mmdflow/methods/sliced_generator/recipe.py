"""The recipe of GS-MMD-RK, generative sliced MMD flows with Riesz kernels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow.errors import InputError
from mmdflow.methods.sliced_generator.settings import (
    Simulation,
    SlicedGeneratorLossSettings,
    SlicedGeneratorSettings,
)
from mmdflow.recipe.specs import BatchTrainingSpec, FeaturesSpec, Recipe, check_event_map


@dataclass(frozen=True)
class SlicedGeneratorRecipe(Recipe):
    """All of a GS-MMD-RK run.

    Attributes:
        description: what it is and what it costs, in a line.
        system: gs-mmd-rk.
        data: the data set.
        features: every network of the chain; its one event-shaped output is the displacement of a particle.
        training: the training loop; its steps or seconds are shared equally by the networks.
        evaluation: the evaluation.
        flow: the flow of the particles.
        loss: the chain and how it is fitted.
        sampling: the sampler.
    """

    system: Literal["gs-mmd-rk"] = "gs-mmd-rk"
    features: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(num_features=1))
    training: BatchTrainingSpec = field(default_factory=lambda: BatchTrainingSpec(ema_decay=0.0))
    flow: Simulation = field(default_factory=Simulation)
    loss: SlicedGeneratorLossSettings = field(default_factory=SlicedGeneratorLossSettings)
    sampling: SlicedGeneratorSettings = field(default_factory=SlicedGeneratorSettings)

    def __post_init__(self) -> None:
        """Check that the network's output is one event, and that sampling applies the networks that were trained."""
        check_event_map(self.features, self.system)
        if self.training.ema_decay:
            raise InputError(
                f"training.ema_decay = {self.training.ema_decay:g}: must be 0 for {self.system}; each network learns from what "
                "those before it give, not from what their averages give"
            )
        if self.sampling.num_networks is not None and self.sampling.num_networks > self.loss.num_networks:
            raise InputError(
                f"sampling.num_networks = {self.sampling.num_networks}: must be at most loss.num_networks, "
                f"{self.loss.num_networks}"
            )

    @property
    def batch_size(self) -> int:
        """Events a step."""
        return self.training.batch_size

    def smallest(self) -> SlicedGeneratorRecipe:
        """Return the recipe with one step of two particles, and a network for every size of the pyramid."""
        pyramid = self.loss.pyramid or [1]
        return replace(
            self,
            flow=replace(self.flow, num_particles=2, num_targets=2, num_directions=1, first_steps=1),
            loss=replace(self.loss, num_networks=len(pyramid)),
            sampling=SlicedGeneratorSettings(),
        )
