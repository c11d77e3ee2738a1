"""A trained discriminator flow as one object and one folder: weights, settings of the flow, provenance."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._pretrained import SampleOutput, SavedPipeline, load_network
from mmdflow.baselines.discriminator_flow.flow import DiscriminatorFlow
from mmdflow.baselines.networks import check_scalar
from mmdflow.baselines.sampling import collect, draw_source
from mmdflow.features import FeatureNetwork

SYSTEM = "discriminator-flow"


@dataclass(frozen=True)
class DiscriminatorFlowPipeline(SavedPipeline):
    """A trained discriminator with all that sampling needs.

    Attributes:
        network: D, a network of one feature, high on particles.
        defaults: the flow when not told otherwise.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.
    """

    network: FeatureNetwork
    defaults: DiscriminatorFlow
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = (SYSTEM,)

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        check_scalar(self.network)
        _checks.positive("data_scale", self.data_scale)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.network.event_shape

    def __call__(
        self,
        num_particles: int = 64,
        num_steps: int | None = None,
        step_size: float | None = None,
        generator: torch.Generator | None = None,
        *,
        particles: Float[Tensor, "n *event"] | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> SampleOutput:
        """Sample. What is None is taken from `defaults`.

        Args:
            num_particles: samples; they do not interact.
            num_steps: n, steps of the flow, each one gradient of the network.
            step_size: eta, of the whole flow, of which a step is eta / n.
            generator: of the source and the flow's noise.
            particles: the source instead of N(0, I), [n, *event]; then num_particles is not used.
            return_trajectory: keep the particles after every step.
            progress: show a bar over the steps.

        Raises:
            InputError: for impossible settings.
            DivergedError: when particles become non-finite.
        """
        flow = replace(
            self.defaults,
            num_steps=self.defaults.num_steps if num_steps is None else num_steps,
            step_size=self.defaults.step_size if step_size is None else step_size,
        )
        source = draw_source(self.network, num_particles, particles, generator, scale=self.data_scale)
        return collect(
            source,
            flow.steps(self.network, source, generator),
            flow.num_steps,
            nfe=flow.num_steps,
            scale=self.data_scale,
            return_trajectory=return_trajectory,
            progress=progress,
        )

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "system": SYSTEM,
            "data_scale": self.data_scale,
            "flow": asdict(self.defaults),
            "provenance": self.provenance,
        }
        return self.network, config, {}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> DiscriminatorFlowPipeline:
        return cls(
            network=load_network(folder, config),
            defaults=DiscriminatorFlow(**config["flow"]),
            data_scale=config["data_scale"],
            provenance=config["provenance"],
        )
