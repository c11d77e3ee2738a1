"""A trained one-step generator as one object and one folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import events_at_once
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.classes import ClassPipeline
from mmdflow.methods._shared.folder import load_network, load_tensors
from mmdflow.methods._shared.networks import check_event_map
from mmdflow.methods._shared.sampling import Steps
from mmdflow.methods.drifting.generator import Generator
from mmdflow.methods.drifting.settings import DriftingSettings

_CLASSES = "classes.safetensors"


@dataclass(frozen=True)
class DriftingPipeline(ClassPipeline):
    """A generator with all that sampling needs; a sample costs one evaluation of the network.

    Attributes:
        network: the generator's network.
        classes: what every class adds to the noise, [C, *event]; None for a generator that knows no class.
        shares: the share of every class in the data, by which classes are drawn where none is given, [C].
        max_guidance: the largest guidance that it learned.
        defaults: the sampler's settings.
        bounded: whether samples are kept in [-1, 1], through tanh.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> pipe = DriftingPipeline(MLPFeatures((2,), num_features=1))
        >>> pipe(5).particles.shape, pipe(5).nfe
        (torch.Size([5, 2]), 1)
    """

    network: FeatureNetwork
    classes: Float[Tensor, "C *event"] | None = None
    shares: Float[Tensor, " C"] | None = None
    max_guidance: float = 1.0
    defaults: DriftingSettings = field(default_factory=DriftingSettings)
    bounded: bool = False
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = ("drifting",)
    settings: ClassVar[type] = DriftingSettings
    _no_classes: ClassVar[str] = "the generator knows no classes; must not be given (loss.classes trains one that does)"

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        check_event_map(self.network)
        _checks.positive("data_scale", self.data_scale)
        if self.classes is None:
            return
        _checks.points("classes", self.classes, self.event_shape)
        if self.shares is None or self.shares.shape != (len(self.classes),):
            raise InputError(f"shares: must hold {len(self.classes)} numbers, one a class")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.network.event_shape

    def _settings(self, changes: dict[str, Any]) -> DriftingSettings:
        settings: DriftingSettings = super()._settings(changes)
        if not 1 <= settings.guidance <= self.max_guidance:
            raise InputError(
                f"guidance = {settings.guidance:g}: must be in [1, {self.max_guidance:g}], what this generator learned"
            )
        return settings

    def _network(self) -> FeatureNetwork:
        return self.network

    def _steps_of(
        self, source: Tensor, labels: Tensor | None, settings: DriftingSettings, generator: torch.Generator | None
    ) -> Steps:
        return Steps(source, self._make(source, labels, settings), count=1, nfe=1)

    @torch.no_grad()
    def _make(self, source: Tensor, labels: Tensor | None, settings: DriftingSettings) -> Iterator[Tensor]:
        """Yield the samples, made some at a time."""
        made_by = Generator(self.network, self.data_scale if self.bounded else None, self.classes)
        inputs = [source]
        if labels is not None:
            inputs += [labels, source.new_full((len(source),), settings.guidance)]
        size = settings.chunk_size or events_at_once(self.event_shape)
        parts = zip(*(value.split(size) for value in inputs), strict=True)
        yield torch.cat([made_by(*part) for part in parts])

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {"bounded": self.bounded, "max_guidance": self.max_guidance}
        if self.classes is None or self.shares is None:
            return self.network, config, {}
        return self.network, config, {_CLASSES: {"classes": self.classes, "shares": self.shares}}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> DriftingPipeline:
        tensors = load_tensors(folder / _CLASSES) if (folder / _CLASSES).is_file() else {}
        return cls(
            load_network(folder, config),
            tensors.get("classes"),
            tensors.get("shares"),
            bounded=config["bounded"],
            max_guidance=config["max_guidance"],
            **cls._common(config),
        )
