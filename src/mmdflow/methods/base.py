"""What a system gives to the commands: a loss to train and a pipeline to sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from mmdflow.data import DataSet
from mmdflow.errors import InputError
from mmdflow.features import NETWORKS, FeatureNetwork
from mmdflow.methods._shared.pretrained import SampleOutput
from mmdflow.recipe.data import ImageData
from mmdflow.recipe.specs import FeaturesSpec, Recipe


@runtime_checkable
class Pipeline(Protocol):
    """A trained model: called with a number of particles and the options of its sampler, it returns samples."""

    @property
    def defaults(self) -> Any:
        """How it samples when not told otherwise, a dataclass with a field `sampler`."""
        ...

    @property
    def provenance(self) -> dict[str, Any]:
        """What made it."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> SampleOutput:
        """Sample: a number of particles, then what the system's sampler takes."""
        ...

    def to(self, device: torch.device | str) -> Pipeline:
        """Return it on a device."""
        ...

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it to a new folder."""
        ...


@runtime_checkable
class System(Protocol):
    """How a method is built from a recipe of its kind."""

    def loss(self, recipe: Any, dataset: DataSet | ImageData) -> nn.Module:
        """Return the loss module around a new network, initialised by the recipe's seed."""
        ...

    def learned(self, loss: Any) -> nn.Module:
        """Return the part of the loss that is learned, and averaged while it is."""
        ...

    def pipeline(
        self,
        recipe: Any,
        loss: Any,
        averaged: Any,
        dataset: DataSet | ImageData,
        provenance: dict[str, Any],
        *,
        preview: bool = False,
        progress: bool = False,
    ) -> Pipeline:
        """Return the pipeline of the averaged part; with `preview`, one that is quick to make and to sample."""
        ...

    def load(self, path: str | Path, device: torch.device | str) -> Pipeline:
        """Return a saved pipeline."""
        ...


def build_features(spec: FeaturesSpec, event_shape: tuple[int, ...]) -> FeatureNetwork:
    """Return the network of a recipe; fields that its kind does not take are refused."""
    given = {k: v for k, v in asdict(spec).items() if v is not None and k != "network"}
    network = NETWORKS[spec.network]
    allowed = set(network.__init__.__annotations__)
    for name in given:
        if name not in allowed:
            raise InputError(f"features.{name} = {given[name]!r}: not a field of the {spec.network} network")
    return network(event_shape, **given)


def new_features(recipe: Recipe, dataset: DataSet | ImageData) -> FeatureNetwork:
    """Return a new network for the data, initialised by the recipe's seed."""
    return new_networks(recipe, dataset, [recipe.features])[0]


def new_networks(recipe: Recipe, dataset: DataSet | ImageData, specs: Sequence[FeaturesSpec]) -> list[FeatureNetwork]:
    """Return a new network of each description for the data, initialised one after the other by the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return [build_features(spec, dataset.event_shape) for spec in specs]
