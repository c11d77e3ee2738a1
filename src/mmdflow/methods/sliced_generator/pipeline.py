"""A trained chain as one object and one folder: networks, source, sampler defaults, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.folder import load_networks
from mmdflow.methods._shared.pretrained import SavedPipeline
from mmdflow.methods._shared.sampling import Steps
from mmdflow.methods.sliced_generator.chain import Source, advance, enlarge
from mmdflow.methods.sliced_generator.loss import check_chain
from mmdflow.methods.sliced_generator.settings import SlicedGeneratorSettings
from mmdflow.types import ArrayLike


@dataclass(frozen=True, repr=False)
class SlicedGeneratorPipeline(SavedPipeline):
    """A trained chain with all that sampling needs.

    Attributes:
        networks: "0", "1", ..., in the order in which they are applied.
        event_shape: the shape of a sample; first networks may be of coarser images.
        source: where particles start, in the model's units.
        defaults: the sampler's settings.
        noise: of particles when they are enlarged for a network of finer images, its standard deviation.
        bound: of the entries of particles after every network, in the model's units; none when None.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> networks = nn.ModuleDict({str(i): MLPFeatures((2,), num_features=1) for i in range(3)})
        >>> pipe = SlicedGeneratorPipeline(networks, (2,), Source())
        >>> pipe(5).nfe, pipe(5, num_networks=2).nfe
        (3, 2)
    """

    networks: nn.ModuleDict
    event_shape: tuple[int, ...]
    source: Source
    defaults: SlicedGeneratorSettings = field(default_factory=SlicedGeneratorSettings)
    noise: float = 0.0
    bound: float | None = None
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = ("gs-mmd-rk",)
    settings: ClassVar[type] = SlicedGeneratorSettings

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        check_chain(self.networks, self.event_shape)
        self._count(self.defaults)
        _checks.non_negative("noise", self.noise)
        if self.bound is not None:
            _checks.positive("bound", self.bound)
        _checks.positive("data_scale", self.data_scale)

    @property
    def chain(self) -> list[FeatureNetwork]:
        """The networks in turn."""
        return check_chain(self.networks, self.event_shape)

    def _network(self) -> FeatureNetwork:
        return self.chain[0]

    def _start(
        self,
        num_particles: int,
        particles: ArrayLike | None,
        generator: torch.Generator | None,
        settings: SlicedGeneratorSettings,
    ) -> Tensor:
        if particles is not None:
            return super()._start(num_particles, particles, generator, settings)
        first = self.chain[0]
        return self.source.draw(num_particles, first.event_shape, next(first.parameters()), generator)

    def _steps(self, source: Tensor, settings: SlicedGeneratorSettings, generator: torch.Generator | None) -> Steps:
        chain = self.chain[: self._count(settings)]
        states = self._states(chain, source, settings.chunk_size, generator)
        return Steps(enlarge(source, self.event_shape), states, count=len(chain), nfe=len(chain))

    def _states(
        self, chain: list[FeatureNetwork], x: Tensor, chunk_size: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """Yield the particles after every network, at full size."""
        for network in chain:
            x = enlarge(x, network.event_shape, self.noise, generator)
            x = advance(network, x, chunk_size, bound=self.bound)
            yield enlarge(x, self.event_shape)

    def _count(self, settings: SlicedGeneratorSettings) -> int:
        return settings.count(len(self.networks), "the length of the chain")

    def _parts(self) -> tuple[nn.ModuleDict, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "event_shape": list(self.event_shape),
            "source": asdict(self.source),
            "noise": self.noise,
            "bound": self.bound,
        }
        return self.networks, config, {}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> SlicedGeneratorPipeline:
        return cls(
            networks=load_networks(folder, config),
            event_shape=tuple(config["event_shape"]),
            source=Source(**config["source"]),
            noise=config["noise"],
            bound=config["bound"],
            **cls._common(config),
        )
