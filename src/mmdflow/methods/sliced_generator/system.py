"""GS-MMD-RK: its pipeline holds the networks that were reached when training ended."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdflow.data import DataSet
from mmdflow.errors import InputError
from mmdflow.methods.base import System, build_features
from mmdflow.methods.sliced_generator import (
    Simulation,
    SlicedGeneratorDefaults,
    SlicedGeneratorLoss,
    SlicedGeneratorPipeline,
    Source,
)
from mmdflow.methods.sliced_generator.recipe import SlicedGeneratorRecipe
from mmdflow.recipe.data import ImageData


class SlicedGenerator(System):
    """GS-MMD-RK."""

    def loss(self, recipe: SlicedGeneratorRecipe, dataset: DataSet | ImageData) -> SlicedGeneratorLoss:  # noqa: D102
        flow = asdict(recipe.flow)
        target = _targets(recipe, dataset, flow.pop("num_targets"))
        low, high = (float(end) for end in target.aminmax())
        spec = recipe.loss
        return SlicedGeneratorLoss(
            _networks(recipe, dataset.event_shape, spec.num_networks),
            target,
            Simulation(**flow),
            Source(spec.source, low, high),
            norm=spec.norm,
            fresh=spec.fresh,
            warm_start=spec.warm_start,
            noise=spec.noise,
            bound=None if spec.bound is None else spec.bound * recipe.data.scale,
        )

    def learned(self, loss: SlicedGeneratorLoss) -> nn.Module:  # noqa: D102
        return loss.networks

    def pipeline(  # noqa: D102
        self,
        recipe: SlicedGeneratorRecipe,
        loss: SlicedGeneratorLoss,
        averaged: nn.ModuleDict,
        dataset: DataSet | ImageData,
        provenance: dict[str, Any],
        *,
        preview: bool = False,
        progress: bool = False,
    ) -> SlicedGeneratorPipeline:
        count = max(1, loss.num_fitted)
        asked = None if preview else recipe.sampling.num_networks
        return SlicedGeneratorPipeline(
            nn.ModuleDict({str(i): averaged[str(i)] for i in range(count)}),
            dataset.event_shape,
            loss.source,
            SlicedGeneratorDefaults(None if asked is None else min(asked, count)),
            loss.noise,
            loss.bound,
            recipe.data.scale,
            provenance,
        )

    def load(self, path: str | Path, device: torch.device | str) -> SlicedGeneratorPipeline:  # noqa: D102
        return SlicedGeneratorPipeline.from_pretrained(path, device)


def _networks(recipe: SlicedGeneratorRecipe, event_shape: tuple[int, ...], count: int) -> nn.ModuleDict:
    """Return the first networks of the chain, initialised one after the other by the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        made = (build_features(recipe.features, _shape(recipe, event_shape, i)) for i in range(count))
        return nn.ModuleDict({str(i): network for i, network in enumerate(made)})


def _shape(recipe: SlicedGeneratorRecipe, event_shape: tuple[int, ...], network: int) -> tuple[int, ...]:
    """Return the shape of a network's events, coarser in a pyramid."""
    factor = recipe.loss.factor(network)
    if factor == 1:
        return event_shape
    if len(event_shape) != 3 or any(size % factor for size in event_shape[1:]):
        raise InputError(
            f"loss.pyramid holds {factor}: must divide the sides of images, events are {list(event_shape)}"
        )
    return event_shape[0], event_shape[1] // factor, event_shape[2] // factor


def _targets(recipe: SlicedGeneratorRecipe, dataset: DataSet | ImageData, count: int | None) -> Tensor:
    """Return the training events that particles flow to, drawn by the recipe's seed."""
    size = len(dataset.train)
    rows = torch.randperm(size, generator=torch.Generator().manual_seed(recipe.training.seed))
    return dataset.train[rows[: size if count is None else count]]
