"""The classes that a method is made of: a system builds a loss to train and a pipeline to sample.

* `System`: a method extends it. `Trained` holds the results of a training, from which the system makes a pipeline.
* `Pipeline`: the commands call a trained model by this protocol. `SavedPipeline` implements it but for the sampler's `Steps`,
  and `ClassPipeline` samples of chosen classes, too.
* `StepTerms`: the loss of a training step.
* `new_features`, `new_networks`, `load_network`: networks by a recipe, and from a folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mmdflow.data import DataSet
from mmdflow.errors import InputError
from mmdflow.features import NETWORKS, FeatureNetwork
from mmdflow.methods._shared.classes import ClassPipeline, class_shares
from mmdflow.methods._shared.folder import load_network
from mmdflow.methods._shared.pretrained import SavedPipeline
from mmdflow.methods._shared.sampling import SampleOutput, Steps
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.recipe.data import ImageData
from mmdflow.recipe.specs import FeaturesSpec, Recipe

__all__ = [
    "ClassPipeline",
    "Pipeline",
    "SampleOutput",
    "SavedPipeline",
    "StepTerms",
    "Steps",
    "System",
    "Trained",
    "build_features",
    "class_shares",
    "load_network",
    "new_features",
    "new_networks",
]


@runtime_checkable
class Pipeline(Protocol):
    """A trained model: called with a number of particles and settings of its sampler, it returns samples.

    `SavedPipeline` has all of it but the steps of the sampler.
    """

    settings: ClassVar[type]
    """The dataclass of the sampler's settings, with a field `sampler`."""

    @property
    def defaults(self) -> Any:
        """The settings of a call that names none, an object of the class `settings`."""
        ...

    @property
    def provenance(self) -> dict[str, Any]:
        """What made it: recipe, command, commit, seconds, versions."""
        ...

    def __call__(
        self,
        num_particles: int = 64,
        *,
        generator: torch.Generator | None = None,
        particles: torch.Tensor | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
        **settings: Any,
    ) -> SampleOutput:
        """Sample."""
        ...

    def to(self, device: torch.device | str) -> Pipeline:
        """Return it on a device."""
        ...

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it to a new folder."""
        ...


@dataclass(frozen=True)
class Trained:
    """The results of a training, at its end or in between.

    Attributes:
        recipe: the recipe.
        loss: the loss that was trained.
        averaged: the average of its learned part.
        dataset: the data.
        provenance: recipe, command, commit, seconds, versions; the pipeline keeps it.
        preview: whether the pipeline is for a look in between. It should then be quick to make and to sample.
        progress: show bars.
    """

    recipe: Any
    loss: Any
    averaged: Any
    dataset: DataSet | ImageData
    provenance: dict[str, Any] = field(default_factory=dict)
    preview: bool = False
    progress: bool = False


class System(ABC):
    """How a method is built from its recipe.

    Attributes:
        pipeline_class: the class of its pipelines, which reads a saved one by `from_pretrained(path, device)`.
    """

    pipeline_class: ClassVar[Any]

    @abstractmethod
    def loss(self, recipe: Any, dataset: DataSet | ImageData) -> nn.Module:
        """Return the loss module around a new network, initialised by the recipe's seed.

        Called with a batch [B, *event] and a generator it returns terms: `total` (the scalar to minimise), `scalars()` (what is
        logged) and `check_finite()`, as `StepTerms` has them.
        """

    def labels(self, recipe: Any, dataset: DataSet | ImageData) -> Tensor | None:
        """Return the classes of the training events, [N], if the loss is told those of a batch; None by default.

        It is then called with a third argument, the classes of the batch, [B].
        """
        return None

    def rows(self, recipe: Any) -> dict[str, Any]:
        """Return `same_class` and `label_dropout` of `StepBatches`, if the loss is told classes of rows; none by default."""
        return {}

    def learned(self, loss: Any) -> nn.Module:
        """Return the part of the loss that is learned and averaged, by default `loss.network`."""
        network: nn.Module = loss.network
        return network

    @abstractmethod
    def pipeline(self, trained: Trained) -> Pipeline:
        """Return the pipeline of the averaged part."""

    def load(self, path: str | Path, device: torch.device | str) -> Pipeline:
        """Return a saved pipeline."""
        pipeline: Pipeline = self.pipeline_class.from_pretrained(path, device)
        return pipeline


def build_features(spec: FeaturesSpec, event_shape: tuple[int, ...], num_classes: int = 0) -> FeatureNetwork:
    """Return the network of a recipe; of `num_classes` it may be told an event's.

    Raises:
        InputError: for a field that a network of its kind does not take.

    Example:
        >>> build_features(FeaturesSpec("mlp", width=16, num_features=1), (2,)).event_shape
        (2,)
    """
    settings = {k: v for k, v in asdict(spec).items() if v is not None and k != "network"}
    network = NETWORKS[spec.network]
    allowed = set(network.__init__.__annotations__)
    for name, value in settings.items():
        if name not in allowed:
            raise InputError(f"features.{name} = {value!r}: not a field of the {spec.network} network")
    if num_classes:
        settings["num_classes"] = num_classes
    return network(event_shape, **settings)


def new_features(recipe: Recipe, dataset: DataSet | ImageData, num_classes: int = 0) -> FeatureNetwork:
    """Return a new network for the data, initialised by the recipe's seed; of `num_classes` it may be told an event's."""
    return new_networks(recipe, dataset, [recipe.features], num_classes)[0]


def new_networks(
    recipe: Recipe, dataset: DataSet | ImageData, specs: Sequence[FeaturesSpec], num_classes: int = 0
) -> list[FeatureNetwork]:
    """Return a new network of each description for the data, initialised one after the other by the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return [build_features(spec, dataset.event_shape, num_classes) for spec in specs]
