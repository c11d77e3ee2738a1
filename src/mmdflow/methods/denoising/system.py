"""DDPM and flow matching."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mmdflow.data import DataSet
from mmdflow.methods._shared.classes import class_shares
from mmdflow.methods.base import System, Trained, new_features
from mmdflow.methods.denoising.loss import DenoisingLoss
from mmdflow.methods.denoising.pipeline import DenoisingPipeline
from mmdflow.methods.denoising.recipe import DDPMRecipe, FlowMatchingRecipe
from mmdflow.noise import schedule
from mmdflow.recipe.data import ImageData

_PREVIEW_LEVELS = 25  # a divisor of 1000


class Denoising(System):
    """DDPM, or flow matching, as the recipe says."""

    pipeline_class = DenoisingPipeline

    def loss(self, recipe: DDPMRecipe | FlowMatchingRecipe, dataset: DataSet | ImageData) -> DenoisingLoss:
        """Return the regression of a new network."""
        shares = _shares(recipe, dataset)
        network = new_features(recipe, dataset, 0 if shares is None else len(shares))
        path, moment = schedule(recipe.schedule), dataset.second_moment
        return DenoisingLoss(network, path, recipe.loss, prediction=recipe.prediction, second_moment=moment)

    def labels(self, recipe: DDPMRecipe | FlowMatchingRecipe, dataset: DataSet | ImageData) -> Tensor | None:
        """Return the classes of the events, if the network is told them."""
        return dataset.train_labels if recipe.loss.by_class else None

    def pipeline(self, trained: Trained) -> DenoisingPipeline:
        """Return the averaged network as a pipeline; a preview has 25 steps."""
        recipe, loss = trained.recipe, trained.loss
        return DenoisingPipeline(
            trained.averaged,
            loss.schedule,
            recipe.schedule,
            loss.prediction,
            replace(recipe.sampling, num_levels=_PREVIEW_LEVELS) if trained.preview else recipe.sampling,
            (recipe.loss.t_min, recipe.loss.t_max),
            recipe.data.scale,
            trained.provenance,
            loss.second_moment,
            _shares(recipe, trained.dataset),
            recipe.loss.by_class and recipe.loss.label_dropout > 0,
        )


def _shares(recipe: DDPMRecipe | FlowMatchingRecipe, dataset: DataSet | ImageData) -> Tensor | None:
    """Return the shares of the classes that the network is told; None where it is told none."""
    return class_shares("loss.by_class = True", dataset.train_labels) if recipe.loss.by_class else None
