"""The recipe of one-step generators."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.methods._shared.recipes import EventRecipe
from mmdflow.methods.dmmd.recipe import DMMDRecipe
from mmdflow.methods.drifting.settings import (
    DistillationSettings,
    DriftingLossSettings,
    DriftingSettings,
    SpacesSettings,
)
from mmdflow.methods.registry import recipe_path
from mmdflow.recipe.read import Source, read_settings, read_yaml


def features_recipe(name: str) -> DMMDRecipe:
    """Return the recipe of a DMMD, a name or a YAML file.

    Raises:
        InputError: if there is none, or it is of another method.
    """
    return read_settings(DMMDRecipe, Source(read_yaml(recipe_path(name)), f"spaces.recipe = {name!r}"))


@dataclass(frozen=True)
class DriftingRecipe(EventRecipe):
    """All of a run of a one-step generator.

    Attributes:
        system: drifting.
        features: the generator; its one event-shaped output is a sample.
        bounded: keep what is generated in [-1, 1], through tanh; for images.
        start: standard deviation of what the new generator makes about the mean of the data, over that of the data; by default it
            begins as its network is initialised. For networks mlp and decoder.
        spaces: where generated events and data are compared.
        loss: the field.
        distillation: a flow to regress, in place of the field.
        sampling: the sampler.
    """

    system: Literal["drifting"] = "drifting"
    bounded: bool = False
    start: float | None = None
    spaces: SpacesSettings = field(default_factory=SpacesSettings)
    loss: DriftingLossSettings = field(default_factory=DriftingLossSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    sampling: DriftingSettings = field(default_factory=DriftingSettings)

    def __post_init__(self) -> None:
        """Check that the generator's output is one event, and that every class has two events a step."""
        super().__post_init__()
        if self.start is not None:
            _checks.positive("start", self.start)
        if self.spaces.patches is not None and self.loss.landmarks is not None:
            raise InputError(
                f"loss.landmarks = {self.loss.landmarks} with spaces.patches: stand for whole events, not for a square of them"
            )
        if self.spaces.recipe is not None:
            self._check_features(self.spaces.recipe)
        if self.distillation.model is not None and self.loss.classes is not None:
            raise InputError(
                f"loss.classes = {self.loss.classes} with distillation.model: its end points have no classes"
            )
        for name, count in (("training.batch_size", self.batch_size), ("loss.population", self.loss.population)):
            if count is not None and count < self.smallest_batch:
                classes = f" a class, of {self.loss.classes} drawn by loss.classes" if self.loss.classes else ""
                raise InputError(f"{name} = {count}: must be at least {self.smallest_batch}, two events{classes}")
        if self.sampling.guidance > self.loss.max_guidance or self.sampling.guidance < 1:
            raise InputError(
                f"sampling.guidance = {self.sampling.guidance:g}: must be in [1, {self.loss.max_guidance:g}], which "
                "loss.max_guidance ends"
            )

    def _check_features(self, name: str) -> None:
        """Raise InputError where a step has too few events for the features that are trained beside the generator."""
        if self.loss.landmarks is not None:
            raise InputError(
                f"loss.landmarks = {self.loss.landmarks} with spaces.recipe = {name!r}: stand for features that do not change"
            )
        if self.batch_size < (needed := features_recipe(name).batch_size):
            raise InputError(
                f"training.batch_size = {self.batch_size} with spaces.recipe = {name!r}: must be at least {needed}, the events "
                "of a step of its features"
            )

    @property
    def smallest_batch(self) -> int:
        """Two events of every class that is drawn; as many as features need that are trained beside."""
        few = 2 * (self.loss.classes or 1)
        return few if self.spaces.recipe is None else max(few, features_recipe(self.spaces.recipe).batch_size)

    def smallest(self) -> DriftingRecipe:
        """Return the recipe with the least population, and few landmarks."""
        few = None if self.loss.landmarks is None else min(2, self.loss.landmarks)
        distilled = self.distillation.model is not None
        distillation = replace(self.distillation, num_pairs=2) if distilled else self.distillation
        return replace(
            self,
            loss=replace(self.loss, population=self.smallest_batch, landmarks=few),
            distillation=distillation,
        )
