"""What pipelines share whose particles flow along the gradient of one learned function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.networks import check_scalar
from mmdflow.methods._shared.pretrained import SampleOutput, SavedPipeline
from mmdflow.methods._shared.sampling import collect, draw_source


class FlowPipeline(SavedPipeline):
    """Sampling down a network of one feature; subclasses are frozen dataclasses with the fields below, and save themselves.

    Attributes:
        network: of one feature.
        defaults: the flow when not told otherwise, a frozen dataclass with num_steps, step_size and
            `steps(network, x, generator)`.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
    """

    network: FeatureNetwork
    defaults: Any
    data_scale: float

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
            num_steps: steps of the flow, each one gradient of the network.
            step_size: eta, as the flow's own settings have it.
            generator: of the source and the flow's noise.
            particles: the source instead of the pipeline's own, [n, *event]; then num_particles is not used.
            return_trajectory: keep the particles after every step.
            progress: show a bar over the steps.

        Raises:
            InputError: for impossible settings.
            DivergedError: when particles become non-finite.
        """
        asked = {"num_steps": num_steps, "step_size": step_size}
        flow = replace(self.defaults, **{name: value for name, value in asked.items() if value is not None})
        if particles is None:
            source = self._source(num_particles, generator)
        else:
            source = draw_source(self.network, num_particles, particles, scale=self.data_scale)
        return collect(
            source,
            flow.steps(self.network, source, generator),
            flow.num_steps,
            nfe=flow.num_steps,
            scale=self.data_scale,
            return_trajectory=return_trajectory,
            progress=progress,
        )

    def _source(self, num_particles: int, generator: torch.Generator | None) -> Float[Tensor, "n *event"]:
        """Return the particles to start from, N(0, I)."""
        return draw_source(self.network, num_particles, generator=generator)
