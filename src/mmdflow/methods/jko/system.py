"""JKO-Flow: its chain has a network a stage, and its potential is trained beside them."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from mmdflow.data import DataSet
from mmdflow.methods.base import System, Trained, new_networks
from mmdflow.methods.jko.chain import start_at_identity
from mmdflow.methods.jko.loss import JKOLoss
from mmdflow.methods.jko.pipeline import JKOPipeline
from mmdflow.methods.jko.recipe import JKOFlowRecipe
from mmdflow.methods.jko.settings import JKOSettings
from mmdflow.recipe.data import ImageData


class JKOFlow(System):
    """JKO-Flow."""

    pipeline_class = JKOPipeline

    def loss(self, recipe: JKOFlowRecipe, dataset: DataSet | ImageData) -> JKOLoss:
        """Return the loss of a new chain of maps that are identities, and a potential."""
        specs = [recipe.features] * recipe.loss.num_stages + [replace(recipe.features, head="flat")]
        *maps, dual = new_networks(recipe, dataset, specs)
        clip = recipe.data.scale if recipe.loss.clip else None
        return JKOLoss([start_at_identity(network) for network in maps], dual, recipe.loss, clip=clip)

    def learned(self, loss: JKOLoss) -> nn.Module:
        """Return the maps; the potential is not needed to sample."""
        return loss.maps

    def pipeline(self, trained: Trained) -> JKOPipeline:
        """Return the chain; a preview ends with the map that is being trained, as maps to come are identities."""
        loss = trained.loss
        count = max(1, int(loss.stage) + 1) if trained.preview else loss.num_stages
        scale = trained.recipe.data.scale
        return JKOPipeline(trained.averaged, JKOSettings(count), loss.clip, scale, trained.provenance)
