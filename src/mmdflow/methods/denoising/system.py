"""DDPM and flow matching."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmdflow.data import DataSet
from mmdflow.features import FeatureNetwork
from mmdflow.methods.base import System, new_features
from mmdflow.methods.denoising import DenoisingDefaults, DenoisingLoss, DenoisingPipeline
from mmdflow.methods.denoising.pipeline import SYSTEMS
from mmdflow.methods.denoising.recipe import DDPMRecipe, FlowMatchingRecipe
from mmdflow.noise import schedule
from mmdflow.recipe.data import ImageData

_PREVIEW_LEVELS = 25  # a divisor of 1000


class Denoising(System):
    """DDPM, or flow matching, as the recipe says."""

    def loss(self, recipe: DDPMRecipe | FlowMatchingRecipe, dataset: DataSet | ImageData) -> DenoisingLoss:  # noqa: D102
        network = new_features(recipe, dataset)
        prediction = SYSTEMS[recipe.system]
        return DenoisingLoss(network, schedule(recipe.schedule), prediction=prediction, **asdict(recipe.loss))

    def learned(self, loss: DenoisingLoss) -> nn.Module:  # noqa: D102
        return loss.network

    def pipeline(  # noqa: D102
        self,
        recipe: DDPMRecipe | FlowMatchingRecipe,
        loss: DenoisingLoss,
        averaged: FeatureNetwork,
        dataset: DataSet | ImageData,
        provenance: dict[str, Any],
        *,
        preview: bool = False,
        progress: bool = False,
    ) -> DenoisingPipeline:
        defaults = DenoisingDefaults(**asdict(recipe.sampling))
        return DenoisingPipeline(
            averaged,
            loss.schedule,
            recipe.schedule,
            loss.prediction,
            replace(defaults, num_levels=_PREVIEW_LEVELS) if preview else defaults,
            (loss.t_min, loss.t_max),
            recipe.data.scale,
            provenance,
        )

    def load(self, path: str | Path, device: torch.device | str) -> DenoisingPipeline:  # noqa: D102
        return DenoisingPipeline.from_pretrained(path, device)
