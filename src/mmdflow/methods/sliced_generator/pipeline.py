"""A trained chain as one object and one folder: networks, source, sampler defaults, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.pretrained import SampleOutput, SavedPipeline, load_networks
from mmdflow.methods._shared.sampling import collect, draw_source
from mmdflow.methods.sliced_generator.chain import Source, advance, enlarge
from mmdflow.methods.sliced_generator.loss import check_chain

SYSTEM = "gs-mmd-rk"


@dataclass(frozen=True)
class SlicedGeneratorDefaults:
    """How a pipeline samples when it is not told otherwise.

    Attributes:
        num_networks: networks that are applied, from the first; all by default.
        sampler: "chain", the only one.
    """

    num_networks: int | None = None
    sampler: str = "chain"

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.num_networks is not None:
            _checks.count("num_networks", self.num_networks)
        _checks.choice("sampler", self.sampler, ("chain",))


@dataclass(frozen=True)
class SlicedGeneratorPipeline(SavedPipeline):
    """A trained chain with all that sampling needs.

    Attributes:
        networks: "0", "1", ..., in the order in which they are applied.
        event_shape: the shape of a sample; first networks may be of coarser images.
        source: where particles start, in the model's units.
        defaults: how to sample when not told otherwise.
        noise: of particles when they are enlarged for a network of finer images, its standard deviation.
        bound: of the entries of particles after every network, in the model's units; none when None.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.
    """

    networks: nn.ModuleDict
    event_shape: tuple[int, ...]
    source: Source
    defaults: SlicedGeneratorDefaults = SlicedGeneratorDefaults()
    noise: float = 0.0
    bound: float | None = None
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = (SYSTEM,)

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        check_chain(self.networks, self.event_shape)
        self._count(None)
        _checks.non_negative("noise", self.noise)
        if self.bound is not None:
            _checks.positive("bound", self.bound)
        _checks.positive("data_scale", self.data_scale)

    @property
    def chain(self) -> list[FeatureNetwork]:
        """The networks in turn."""
        return check_chain(self.networks, self.event_shape)

    def __call__(
        self,
        num_particles: int = 64,
        num_networks: int | None = None,
        sampler: str | None = None,
        generator: torch.Generator | None = None,
        *,
        particles: Float[Tensor, "n *event"] | None = None,
        chunk_size: int | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> SampleOutput:
        """Sample: x <- x + Phi_l(x) for one network after the other. What is None is taken from `defaults`.

        Args:
            num_particles: samples; they do not interact.
            num_networks: networks to apply, from the first; the NFE.
            sampler: "chain".
            generator: of the source, and of the noise where the chain goes on to finer images.
            particles: the source instead, [n, *event], of the first network's shape; then num_particles is not used.
            chunk_size: particles that a network is given at once: less memory, the same samples.
            return_trajectory: keep the particles after every network.
            progress: show a bar.

        Raises:
            InputError: for impossible settings.
            DivergedError: when particles become non-finite.
        """
        _checks.choice("sampler", sampler or self.defaults.sampler, ("chain",))
        chain = self.chain[: self._count(num_networks)]
        if chunk_size is not None:
            _checks.count("chunk_size", chunk_size)
        if particles is None:
            source = self.source.draw(num_particles, chain[0].event_shape, next(chain[0].parameters()), generator)
        else:
            source = draw_source(chain[0], num_particles, particles, scale=self.data_scale)
        return collect(
            enlarge(source, self.event_shape),
            self._steps(chain, source, chunk_size, generator),
            len(chain),
            nfe=len(chain),
            scale=self.data_scale,
            return_trajectory=return_trajectory,
            progress=progress,
        )

    def _steps(
        self, chain: list[FeatureNetwork], x: Tensor, chunk_size: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """Yield the particles after every network, at full size."""
        for network in chain:
            x = enlarge(x, network.event_shape, self.noise, generator)
            x = advance(network, x, chunk_size, bound=self.bound)
            yield enlarge(x, self.event_shape)

    def _count(self, num_networks: int | None) -> int:
        """Return how many networks to apply, checked."""
        count, there = self.defaults.num_networks if num_networks is None else num_networks, len(self.networks)
        if count is not None and _checks.count("num_networks", count) > there:
            raise InputError(f"num_networks = {count}: must be at most {there}, the length of the chain")
        return there if count is None else count

    def _parts(self) -> tuple[nn.ModuleDict, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "system": SYSTEM,
            "event_shape": list(self.event_shape),
            "source": asdict(self.source),
            "noise": self.noise,
            "bound": self.bound,
            "data_scale": self.data_scale,
            "sampler": asdict(self.defaults),
            "provenance": self.provenance,
        }
        return self.networks, config, {}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> SlicedGeneratorPipeline:
        return cls(
            networks=load_networks(folder, config),
            event_shape=tuple(config["event_shape"]),
            source=Source(**config["source"]),
            defaults=SlicedGeneratorDefaults(**config["sampler"]),
            noise=config["noise"],
            bound=config["bound"],
            data_scale=config["data_scale"],
            provenance=config["provenance"],
        )
