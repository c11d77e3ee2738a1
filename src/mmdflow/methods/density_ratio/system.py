"""DGGF-KL."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmdflow.data import DataSet
from mmdflow.features import FeatureNetwork
from mmdflow.methods.base import System, new_features
from mmdflow.methods.density_ratio import DensityRatioLoss, DensityRatioPipeline, GaussianPrior
from mmdflow.methods.density_ratio.recipe import DensityRatioRecipe
from mmdflow.recipe.data import ImageData

#: Training events, drawn once and for all, that the prior is fitted to.
_FITTED = 10_000


class DensityRatioSystem(System):
    """DGGF-KL."""

    def loss(self, recipe: DensityRatioRecipe, dataset: DataSet | ImageData) -> DensityRatioLoss:  # noqa: D102
        network, settings = new_features(recipe, dataset), asdict(recipe.loss)
        rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(recipe.training.seed))
        prior = GaussianPrior(dataset.event_shape, settings.pop("prior"))
        prior.fit(dataset.train[part] for part in rows[:_FITTED].split(1000))
        return DensityRatioLoss(network, prior, pool_size=recipe.batch_size, **settings)

    def learned(self, loss: DensityRatioLoss) -> nn.Module:  # noqa: D102
        return loss.network

    def pipeline(  # noqa: D102
        self,
        recipe: DensityRatioRecipe,
        loss: DensityRatioLoss,
        averaged: FeatureNetwork,
        dataset: DataSet | ImageData,
        provenance: dict[str, Any],
        *,
        preview: bool = False,
        progress: bool = False,
    ) -> DensityRatioPipeline:
        chosen = {name: value for name, value in asdict(recipe.sampling).items() if value is not None}
        prior = deepcopy(loss.prior).to(next(averaged.parameters()).device)
        return DensityRatioPipeline(averaged, prior, replace(loss.flow, **chosen), recipe.data.scale, provenance)

    def load(self, path: str | Path, device: torch.device | str) -> DensityRatioPipeline:  # noqa: D102
        return DensityRatioPipeline.from_pretrained(path, device)
