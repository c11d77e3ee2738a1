"""A trained chain of maps as one object and one folder. Potentials are not needed to sample, and not kept."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.networks import check_event_map
from mmdflow.methods._shared.pretrained import SampleOutput, SavedPipeline, load_networks
from mmdflow.methods._shared.sampling import collect, draw_source
from mmdflow.methods.jko.chain import push

SYSTEM = "jko-flow"


@dataclass(frozen=True)
class JKODefaults:
    """How a pipeline samples when it is not told otherwise.

    Attributes:
        num_networks: maps of the chain that are applied, from the first.
        sampler: chain.
    """

    num_networks: int
    sampler: str = "chain"

    def __post_init__(self) -> None:
        """Check the fields."""
        _checks.count("num_networks", self.num_networks)
        _checks.choice("sampler", self.sampler, ["chain"])


@dataclass(frozen=True)
class JKOPipeline(SavedPipeline):
    """A trained chain of maps with all that sampling needs.

    Attributes:
        maps: the networks u of the maps T(x) = x + u(x), in order.
        defaults: how to sample when not told otherwise.
        clip: bound on the entries after every map, in the model's units; none when None.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.
    """

    maps: nn.ModuleDict
    defaults: JKODefaults
    clip: float | None = None
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = (SYSTEM,)

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        _checks.positive("data_scale", self.data_scale)
        if self.clip is not None:
            _checks.positive("clip", self.clip)
        self._count(self.defaults.num_networks)
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

    def __call__(
        self,
        num_particles: int = 64,
        num_networks: int | None = None,
        generator: torch.Generator | None = None,
        *,
        particles: Float[Tensor, "n *event"] | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> SampleOutput:
        """Sample: apply the maps, one after the other.

        Args:
            num_particles: samples; they do not interact.
            num_networks: maps that are applied, from the first; by default the pipeline's.
            generator: of the source.
            particles: the source instead of N(0, I), [n, *event]; then num_particles is not used.
            return_trajectory: keep the particles after every map.
            progress: show a bar over the maps.

        Raises:
            InputError: for impossible settings.
            DivergedError: when particles become non-finite.
        """
        count = self._count(self.defaults.num_networks if num_networks is None else num_networks)
        source = draw_source(self._networks[0], num_particles, particles, generator, scale=self.data_scale)
        return collect(
            source,
            push(itertools.islice(self._networks, count), source, self.clip),
            count,
            nfe=count,
            scale=self.data_scale,
            return_trajectory=return_trajectory,
            progress=progress,
        )

    def _count(self, num_networks: int) -> int:
        if _checks.count("num_networks", num_networks) > len(self.maps):
            raise InputError(f"num_networks = {num_networks}: must be at most {len(self.maps)}, the maps of the chain")
        return num_networks

    def _parts(self) -> tuple[nn.ModuleDict, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "system": SYSTEM,
            "clip": self.clip,
            "data_scale": self.data_scale,
            "sampler": asdict(self.defaults),
            "provenance": self.provenance,
        }
        return self.maps, config, {}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> JKOPipeline:
        return cls(
            maps=load_networks(folder, config),
            defaults=JKODefaults(**config["sampler"]),
            clip=config["clip"],
            data_scale=config["data_scale"],
            provenance=config["provenance"],
        )
