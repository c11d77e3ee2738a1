"""The recipe of GS-MMD-RK, generative sliced MMD flows with Riesz kernels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow.errors import InputError
from mmdflow.methods._shared.recipes import EventRecipe
from mmdflow.methods.sliced_generator.settings import (
    Simulation,
    SlicedGeneratorLossSettings,
    SlicedGeneratorSettings,
)
from mmdflow.recipe.specs import BatchTrainingSpec


@dataclass(frozen=True)
class SlicedGeneratorRecipe(EventRecipe):
    """All of a GS-MMD-RK run; the networks share the steps or seconds of the training equally.

    Attributes:
        system: gs-mmd-rk.
        features: every network of the chain; its one event-shaped output is the displacement of a particle.
        flow: the flow of the particles.
        loss: the chain and how it is fitted.
        sampling: the sampler.
    """

    system: Literal["gs-mmd-rk"] = "gs-mmd-rk"
    training: BatchTrainingSpec = field(default_factory=lambda: BatchTrainingSpec(ema_decay=0.0))
    flow: Simulation = field(default_factory=Simulation)
    loss: SlicedGeneratorLossSettings = field(default_factory=SlicedGeneratorLossSettings)
    sampling: SlicedGeneratorSettings = field(default_factory=SlicedGeneratorSettings)

    def __post_init__(self) -> None:
        """Check that the network's output is one event, and that sampling applies the networks that were trained."""
        super().__post_init__()
        self.check_no_average("each network learns from what those before it give, not from what their averages give")
        if self.sampling.num_networks is not None and self.sampling.num_networks > self.loss.num_networks:
            raise InputError(
                f"sampling.num_networks = {self.sampling.num_networks}: must be at most loss.num_networks, "
                f"{self.loss.num_networks}"
            )

    def smallest(self) -> SlicedGeneratorRecipe:
        """Return the recipe with one step of two particles, and a network for every size of the pyramid."""
        pyramid = self.loss.pyramid or [1]
        return replace(
            self,
            flow=replace(self.flow, num_particles=2, num_targets=2, num_directions=1, first_steps=1),
            loss=replace(self.loss, num_networks=len(pyramid)),
            sampling=SlicedGeneratorSettings(),
        )
