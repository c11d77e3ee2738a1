"""A trained chain of maps as one object and one folder. Potentials are not needed to sample, and not kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.folder import load_networks
from mmdflow.methods._shared.networks import check_event_map
from mmdflow.methods._shared.pretrained import SavedPipeline
from mmdflow.methods._shared.sampling import Steps
from mmdflow.methods.jko.chain import push
from mmdflow.methods.jko.settings import JKOSettings


@dataclass(frozen=True, repr=False)
class JKOPipeline(SavedPipeline):
    """A trained chain of maps with all that sampling needs.

    Attributes:
        maps: the networks u of the maps T(x) = x + u(x), in order.
        defaults: the sampler's settings.
        clip: bound on the entries after every map, in the model's units; none when None.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> pipe = JKOPipeline(nn.ModuleDict({str(i): MLPFeatures((2,), num_features=1) for i in range(3)}))
        >>> pipe(4).nfe, pipe(4, num_networks=2).nfe
        (3, 2)
    """

    maps: nn.ModuleDict
    defaults: JKOSettings = field(default_factory=JKOSettings)
    clip: float | None = None
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = ("jko-flow",)
    settings: ClassVar[type] = JKOSettings

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        _checks.positive("data_scale", self.data_scale)
        if self.clip is not None:
            _checks.positive("clip", self.clip)
        self._count(self.defaults)
        shapes = {check_event_map(network).event_shape for network in self._networks}
        if len(shapes) > 1:
            raise InputError(f"event shapes of maps {sorted(shapes)}: must be one shape")

    @property
    def _networks(self) -> list[FeatureNetwork]:
        return [network for network in self.maps.values() if isinstance(network, FeatureNetwork)]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self._networks[0].event_shape

    def _network(self) -> FeatureNetwork:
        return self._networks[0]

    def _steps(self, source: Tensor, settings: JKOSettings, generator: torch.Generator | None) -> Steps:
        count = self._count(settings)
        states = push(itertools.islice(self._networks, count), source, self.clip)
        return Steps(source, states, count=count, nfe=count)

    def _count(self, settings: JKOSettings) -> int:
        return settings.count(len(self.maps), "the maps of the chain")

    def _parts(self) -> tuple[nn.ModuleDict, dict[str, Any], dict[str, dict[str, Tensor]]]:
        return self.maps, {"clip": self.clip}, {}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> JKOPipeline:
        return cls(load_networks(folder, config), clip=config["clip"], **cls._common(config))
