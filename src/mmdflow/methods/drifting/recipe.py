"""The recipe of one-step generators."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow.errors import InputError
from mmdflow.methods._shared.recipes import EventRecipe
from mmdflow.methods.drifting.settings import DriftingLossSettings, DriftingSettings, SpacesSettings


@dataclass(frozen=True)
class DriftingRecipe(EventRecipe):
    """All of a run of a one-step generator.

    Attributes:
        system: drifting.
        features: the generator; its one event-shaped output is a sample.
        bounded: keep what is generated in [-1, 1], through tanh; for images.
        spaces: where generated events and data are compared.
        loss: the field.
        sampling: the sampler.
    """

    system: Literal["drifting"] = "drifting"
    bounded: bool = False
    spaces: SpacesSettings = field(default_factory=SpacesSettings)
    loss: DriftingLossSettings = field(default_factory=DriftingLossSettings)
    sampling: DriftingSettings = field(default_factory=DriftingSettings)

    def __post_init__(self) -> None:
        """Check that the generator's output is one event, and that every class has two events a step."""
        super().__post_init__()
        for name, count in (("training.batch_size", self.batch_size), ("loss.population", self.loss.population)):
            if count is not None and count < self.smallest_batch:
                classes = f" a class, of {self.loss.classes} drawn by loss.classes" if self.loss.classes else ""
                raise InputError(f"{name} = {count}: must be at least {self.smallest_batch}, two events{classes}")
        if self.sampling.guidance > self.loss.max_guidance or self.sampling.guidance < 1:
            raise InputError(
                f"sampling.guidance = {self.sampling.guidance:g}: must be in [1, {self.loss.max_guidance:g}], which "
                "loss.max_guidance ends"
            )

    @property
    def smallest_batch(self) -> int:
        """Two events of every class that is drawn."""
        return 2 * (self.loss.classes or 1)

    def smallest(self) -> DriftingRecipe:
        """Return the recipe with the least population, and few landmarks."""
        few = None if self.loss.landmarks is None else min(2, self.loss.landmarks)
        return replace(self, loss=replace(self.loss, population=self.smallest_batch, landmarks=few))
