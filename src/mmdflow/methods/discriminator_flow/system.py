"""Discriminator flow."""

from __future__ import annotations

from dataclasses import asdict

from mmdflow._settings import changed
from mmdflow.data import DataSet
from mmdflow.methods.base import System, Trained, new_features
from mmdflow.methods.discriminator_flow.loss import DiscriminatorFlowLoss
from mmdflow.methods.discriminator_flow.pipeline import DiscriminatorFlowPipeline
from mmdflow.methods.discriminator_flow.recipe import DiscriminatorFlowRecipe
from mmdflow.recipe.data import ImageData


class DiscriminatorFlowSystem(System):
    """Discriminator flow."""

    pipeline_class = DiscriminatorFlowPipeline

    def loss(self, recipe: DiscriminatorFlowRecipe, dataset: DataSet | ImageData) -> DiscriminatorFlowLoss:
        """Return the loss of a new discriminator."""
        return DiscriminatorFlowLoss(new_features(recipe, dataset), recipe.loss, pool_size=recipe.batch_size)

    def pipeline(self, trained: Trained) -> DiscriminatorFlowPipeline:
        """Return the averaged discriminator; it samples by the flow of the training, as far as `sampling` leaves it."""
        recipe = trained.recipe
        flow = changed(trained.loss.flow, asdict(recipe.sampling))
        return DiscriminatorFlowPipeline(trained.averaged, flow, recipe.data.scale, trained.provenance)
