"""JKO-Flow: its chain has a network a stage, and its potential is trained beside them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmdflow.data import DataSet
from mmdflow.methods.base import System, new_networks
from mmdflow.methods.jko import JKODefaults, JKOLoss, JKOPipeline, start_at_identity
from mmdflow.methods.jko.recipe import JKOFlowRecipe
from mmdflow.recipe.data import ImageData


class JKOFlow(System):
    """JKO-Flow."""

    def loss(self, recipe: JKOFlowRecipe, dataset: DataSet | ImageData) -> JKOLoss:  # noqa: D102
        settings = asdict(recipe.loss)
        specs = [recipe.features] * settings.pop("num_stages") + [replace(recipe.features, head="flat")]
        clip = recipe.data.scale if settings.pop("clip") else None
        *maps, dual = new_networks(recipe, dataset, specs)
        return JKOLoss([start_at_identity(network) for network in maps], dual, clip=clip, **settings)

    def learned(self, loss: JKOLoss) -> nn.Module:  # noqa: D102
        return loss.maps

    def pipeline(  # noqa: D102
        self,
        recipe: JKOFlowRecipe,
        loss: JKOLoss,
        averaged: nn.ModuleDict,
        dataset: DataSet | ImageData,
        provenance: dict[str, Any],
        *,
        preview: bool = False,
        progress: bool = False,
    ) -> JKOPipeline:
        count = max(1, int(loss.stage) + 1) if preview else loss.num_stages  # maps to come are identities
        return JKOPipeline(averaged, JKODefaults(count), loss.clip, recipe.data.scale, provenance)

    def load(self, path: str | Path, device: torch.device | str) -> JKOPipeline:  # noqa: D102
        return JKOPipeline.from_pretrained(path, device)
