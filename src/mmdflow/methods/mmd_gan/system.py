"""MMD-GAN: its pipeline holds features of the data, computed when training ends, for the flow down its critic."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmdflow._tensors import events_at_once
from mmdflow.data import DataSet
from mmdflow.kernels import base_kernel
from mmdflow.methods.base import System, new_networks
from mmdflow.methods.mmd_gan import MMDGANDefaults, MMDGANLoss, MMDGANPipeline, player, references_of
from mmdflow.methods.mmd_gan.recipe import MMDGANRecipe
from mmdflow.recipe.data import ImageData

_PREVIEW_REFERENCES = 1000


class MMDGAN(System):
    """MMD-GAN."""

    def loss(self, recipe: MMDGANRecipe, dataset: DataSet | ImageData) -> MMDGANLoss:  # noqa: D102
        generator, critic = new_networks(recipe, dataset, [recipe.features, recipe.critic])
        bound = recipe.data.scale if recipe.bounded else None
        return MMDGANLoss(generator, critic, base_kernel(recipe.base.config()), bound=bound, **asdict(recipe.loss))

    def learned(self, loss: MMDGANLoss) -> nn.Module:  # noqa: D102
        return loss.networks

    def pipeline(  # noqa: D102
        self,
        recipe: MMDGANRecipe,
        loss: MMDGANLoss,
        averaged: nn.ModuleDict,
        dataset: DataSet | ImageData,
        provenance: dict[str, Any],
        *,
        preview: bool = False,
        progress: bool = False,
    ) -> MMDGANPipeline:
        settings = asdict(recipe.sampling)
        asked = settings.pop("num_references")
        generator, critic = player(averaged, "generator"), player(averaged, "critic")
        device = next(critic.parameters()).device
        rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(recipe.training.seed))
        rows = rows[: min(asked or len(rows), _PREVIEW_REFERENCES if preview else len(rows))]
        batches = (dataset.train[part].to(device) for part in rows.split(events_at_once(dataset.event_shape)))
        references = references_of(critic, loss.base, batches)
        defaults = MMDGANDefaults(**settings)
        return MMDGANPipeline(
            generator,
            critic,
            loss.base,
            references,
            defaults,
            bounded=recipe.bounded,
            data_scale=recipe.data.scale,
            provenance=provenance,
        )

    def load(self, path: str | Path, device: torch.device | str) -> MMDGANPipeline:  # noqa: D102
        return MMDGANPipeline.from_pretrained(path, device)
