"""GS-MMD-RK: its pipeline holds the networks that were reached when training ended."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mmdflow.data import DataSet
from mmdflow.errors import InputError
from mmdflow.methods.base import System, Trained, build_features
from mmdflow.methods.sliced_generator.chain import Source
from mmdflow.methods.sliced_generator.loss import SlicedGeneratorLoss
from mmdflow.methods.sliced_generator.pipeline import SlicedGeneratorPipeline
from mmdflow.methods.sliced_generator.recipe import SlicedGeneratorRecipe
from mmdflow.recipe.data import ImageData


class SlicedGenerator(System):
    """GS-MMD-RK."""

    pipeline_class = SlicedGeneratorPipeline

    def loss(self, recipe: SlicedGeneratorRecipe, dataset: DataSet | ImageData) -> SlicedGeneratorLoss:
        """Return the loss of a new chain."""
        target = _targets(recipe, dataset)
        low, high = (float(end) for end in target.aminmax())
        networks = _networks(recipe, dataset.event_shape)
        source = Source(recipe.loss.source, low, high)
        return SlicedGeneratorLoss(networks, target, recipe.flow, source, recipe.loss, data_scale=recipe.data.scale)

    def learned(self, loss: SlicedGeneratorLoss) -> nn.Module:
        """Return the chain."""
        return loss.networks

    def pipeline(self, trained: Trained) -> SlicedGeneratorPipeline:
        """Return the networks that were fitted; a preview applies all of them."""
        recipe, loss = trained.recipe, trained.loss
        count = max(1, loss.num_fitted)
        applied = None if trained.preview else recipe.sampling.num_networks
        return SlicedGeneratorPipeline(
            nn.ModuleDict({str(i): trained.averaged[str(i)] for i in range(count)}),
            trained.dataset.event_shape,
            loss.source,
            replace(recipe.sampling, num_networks=None if applied is None else min(applied, count)),
            recipe.loss.noise,
            loss.bound,
            recipe.data.scale,
            trained.provenance,
        )


def _networks(recipe: SlicedGeneratorRecipe, event_shape: tuple[int, ...]) -> nn.ModuleDict:
    """Return the networks of the chain, initialised one after the other by the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        shapes = {str(i): _shape(recipe, event_shape, i) for i in range(recipe.loss.num_networks)}
        return nn.ModuleDict({name: build_features(recipe.features, shape) for name, shape in shapes.items()})


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


def _targets(recipe: SlicedGeneratorRecipe, dataset: DataSet | ImageData) -> Tensor:
    """Return the training events that particles flow to, drawn by the recipe's seed."""
    size, count = len(dataset.train), recipe.flow.num_targets
    rows = torch.randperm(size, generator=torch.Generator().manual_seed(recipe.training.seed))
    return dataset.train[rows[: size if count is None else count]]
