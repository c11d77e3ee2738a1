"""A generator and the features that it is compared in, trained in the same steps; the features see data and noise alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow.data import DataSet
from mmdflow.features import FeatureNetwork
from mmdflow.methods import get_method
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.dmmd import DMMDLoss
from mmdflow.methods.dmmd.recipe import DMMDRecipe
from mmdflow.methods.drifting.generator import Generator
from mmdflow.methods.drifting.loss import DriftingLoss, DriftingTerms
from mmdflow.methods.drifting.population import Classes
from mmdflow.methods.drifting.recipe import features_recipe
from mmdflow.methods.drifting.settings import SpacesSettings
from mmdflow.methods.drifting.spaces import NoisedFeatures, Space
from mmdflow.recipe.data import ImageData

#: Share of the average of the features that a step keeps.
_KEPT = 0.99


@dataclass(frozen=True)
class AlternatingTerms(StepTerms):
    """The losses of generator and features, which share no parameter.

    Attributes:
        generator: of the generator.
        features: of the features, `LossTerms`.
    """

    generator: DriftingTerms
    features: StepTerms

    def scalars(self) -> dict[str, float]:
        """Return those of the generator, and the features' with their name before them."""
        of_features = {f"features_{name}": value for name, value in self.features.scalars().items()}
        return self.generator.scalars() | of_features

    def check_finite(self) -> None:
        """Raise `DivergedError` if one of the losses is not finite."""
        self.generator.check_finite()
        self.features.check_finite()


class AlternatingLoss(nn.Module):
    """A step of a one-step generator and a step of its features by the DMMD's own loss: no adversary.

    The generator is compared in an average of the features, which changes little from a step to the next. The features never see
    a generated event.

    Args:
        drifting: of the generator, in spaces of `averaged`.
        features: of the features.
        averaged: a copy of their network, which follows it.
        events: of a step that the features are trained on.
        factor: step size of the features over that of the generator.
    """

    def __init__(
        self, drifting: DriftingLoss, features: DMMDLoss, averaged: FeatureNetwork, events: int, factor: float = 1.0
    ) -> None:
        super().__init__()
        self.drifting, self.features, self.averaged = drifting, features, averaged
        self.events, self.factor = events, factor

    @property
    def generator(self) -> Generator:
        """The generator."""
        return self.drifting.generator

    @property
    def classes(self) -> Classes | None:
        """The data by class, for a generator that knows classes."""
        return self.drifting.classes

    def parameter_groups(self) -> Sequence[tuple[nn.Module, float]]:
        """Return generator and features with the factors of their step sizes."""
        return [(self.generator, 1.0), (self.features, self.factor)]

    def forward(self, batch: Float[Tensor, "B *event"], generator: torch.Generator | None = None) -> AlternatingTerms:
        """Return both losses of a batch of the data."""
        self._follow()
        of_generator = self.drifting(batch, generator)
        of_features = self.features(batch[: self.events], generator)
        return AlternatingTerms(of_generator.total + of_features.total, of_generator, of_features)

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the averaged features follow the trained ones."""
        trained = self.features.kernel.features
        for mean, current in zip(self.averaged.parameters(), trained.parameters(), strict=True):
            mean.lerp_(current, 1 - _KEPT)


@dataclass(frozen=True)
class NewFeatures:
    """Features that are trained beside the generator.

    Attributes:
        recipe: of the DMMD whose features they are.
        loss: its loss, around a new network.
        averaged: a copy of the network.
    """

    recipe: DMMDRecipe
    loss: DMMDLoss
    averaged: FeatureNetwork

    @classmethod
    def of_recipe(cls, name: str, dataset: DataSet | ImageData) -> NewFeatures:
        """Return new features by a DMMD's recipe, a name or a YAML file.

        Raises:
            InputError: if there is none, or it is of another method.
        """
        recipe = features_recipe(name)
        loss = get_method(recipe.system).make_system().loss(recipe, dataset)
        assert isinstance(loss, DMMDLoss)
        network = loss.kernel.features
        assert isinstance(network, FeatureNetwork)
        return cls(recipe, loss, deepcopy(network))

    def spaces(self, settings: SpacesSettings) -> list[Space]:
        """Return a space for every noise level of the averaged features, each measured by the batch."""
        schedule = self.loss.schedule
        return [
            NoisedFeatures(self.averaged, schedule, level, hidden=settings.hidden, by_batch=True)
            for level in settings.levels
        ]

    def beside(self, drifting: DriftingLoss, step_size: float) -> AlternatingLoss:
        """Return the loss of both; `step_size` is the generator's."""
        factor = self.recipe.training.step_size / step_size
        return AlternatingLoss(drifting, self.loss, self.averaged, self.recipe.batch_size, factor)
