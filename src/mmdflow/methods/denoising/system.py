"""DDPM and flow matching."""

from __future__ import annotations

from dataclasses import replace

from mmdflow.data import DataSet
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
        network, path = new_features(recipe, dataset), schedule(recipe.schedule)
        return DenoisingLoss(
            network, path, recipe.loss, prediction=recipe.prediction, second_moment=dataset.second_moment
        )

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
        )
