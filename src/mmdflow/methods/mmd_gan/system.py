"""MMD-GAN: its pipeline holds features of the data, computed when training ends, for the flow down its critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdflow._settings import part
from mmdflow._tensors import events_at_once
from mmdflow.data import DataSet
from mmdflow.kernels import base_kernel
from mmdflow.methods.base import System, Trained, new_networks
from mmdflow.methods.mmd_gan.critic import references_of
from mmdflow.methods.mmd_gan.loss import MMDGANLoss, player
from mmdflow.methods.mmd_gan.pipeline import MMDGANPipeline
from mmdflow.methods.mmd_gan.recipe import MMDGANRecipe
from mmdflow.methods.mmd_gan.settings import MMDGANSettings
from mmdflow.recipe.data import ImageData

_PREVIEW_REFERENCES = 1000


class MMDGAN(System):
    """MMD-GAN."""

    pipeline_class = MMDGANPipeline

    def loss(self, recipe: MMDGANRecipe, dataset: DataSet | ImageData) -> MMDGANLoss:
        """Return the game of a new generator and a new critic."""
        generator, critic = new_networks(recipe, dataset, [recipe.features, recipe.critic])
        bound = recipe.data.scale if recipe.bounded else None
        return MMDGANLoss(generator, critic, base_kernel(recipe.base.config()), recipe.loss, bound=bound)

    def learned(self, loss: MMDGANLoss) -> nn.Module:
        """Return generator and critic."""
        return loss.networks

    def pipeline(self, trained: Trained) -> MMDGANPipeline:
        """Return both networks with the data's features."""
        recipe = trained.recipe
        return MMDGANPipeline(
            player(trained.averaged, "generator"),
            player(trained.averaged, "critic"),
            trained.loss.base,
            _references(trained),
            part(MMDGANSettings, recipe.sampling),
            bounded=recipe.bounded,
            data_scale=recipe.data.scale,
            provenance=trained.provenance,
        )


def _references(trained: Trained) -> Tensor:
    """Return the critic's features of training events, drawn by the recipe's seed; a preview has at most 1000."""
    recipe, dataset, critic = trained.recipe, trained.dataset, player(trained.averaged, "critic")
    rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(recipe.training.seed))
    count = recipe.sampling.num_references or len(rows)
    rows = rows[: min(count, _PREVIEW_REFERENCES) if trained.preview else count]
    device = next(critic.parameters()).device
    batches = (dataset.train[some].to(device) for some in rows.split(events_at_once(dataset.event_shape)))
    return references_of(critic, trained.loss.base, batches)
