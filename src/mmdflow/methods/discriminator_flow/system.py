"""Discriminator flow."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmdflow.data import DataSet
from mmdflow.features import FeatureNetwork
from mmdflow.methods.base import System, new_features
from mmdflow.methods.discriminator_flow import DiscriminatorFlowLoss, DiscriminatorFlowPipeline
from mmdflow.methods.discriminator_flow.recipe import DiscriminatorFlowRecipe
from mmdflow.recipe.data import ImageData


class DiscriminatorFlowSystem(System):
    """Discriminator flow."""

    def loss(self, recipe: DiscriminatorFlowRecipe, dataset: DataSet | ImageData) -> DiscriminatorFlowLoss:  # noqa: D102
        network = new_features(recipe, dataset)
        return DiscriminatorFlowLoss(network, pool_size=recipe.batch_size, **asdict(recipe.loss))

    def learned(self, loss: DiscriminatorFlowLoss) -> nn.Module:  # noqa: D102
        return loss.network

    def pipeline(  # noqa: D102
        self,
        recipe: DiscriminatorFlowRecipe,
        loss: DiscriminatorFlowLoss,
        averaged: FeatureNetwork,
        dataset: DataSet | ImageData,
        provenance: dict[str, Any],
        *,
        preview: bool = False,
        progress: bool = False,
    ) -> DiscriminatorFlowPipeline:
        chosen = {name: value for name, value in asdict(recipe.sampling).items() if value is not None}
        return DiscriminatorFlowPipeline(averaged, replace(loss.flow, **chosen), recipe.data.scale, provenance)

    def load(self, path: str | Path, device: torch.device | str) -> DiscriminatorFlowPipeline:  # noqa: D102
        return DiscriminatorFlowPipeline.from_pretrained(path, device)
