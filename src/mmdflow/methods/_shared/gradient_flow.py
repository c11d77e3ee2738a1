"""Flows along the gradient of one learned function: their steps, and what their pipelines share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.networks import check_scalar
from mmdflow.methods._shared.pretrained import SavedPipeline
from mmdflow.methods._shared.sampling import Steps

#: One step of a flow: (settings, network, particles [n, *event], number of the step for every particle [n], generator) ->
#: the particles after it, without gradients.
FlowStep = Callable[[Any, FeatureNetwork, Tensor, Tensor, torch.Generator | None], Tensor]


def flow_states(
    step: FlowStep,
    settings: Any,
    network: FeatureNetwork,
    x: Float[Tensor, "n *event"],
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "n *event"]]:
    """Yield the particles after each of the `settings.num_steps` steps from the source x.

    Example:
        >>> from types import SimpleNamespace
        >>> from mmdflow.features import MLPFeatures
        >>> network = MLPFeatures((1,), num_features=1, head="flat")
        >>> halve = lambda settings, network, x, index, generator: x / 2
        >>> [x.item() for x in flow_states(halve, SimpleNamespace(num_steps=2), network, torch.ones(1, 1))]
        [0.5, 0.25]
    """
    for i in range(settings.num_steps):
        x = step(settings, network, x, torch.full((len(x),), i, device=x.device), generator)
        yield x


class FlowPipeline(SavedPipeline):
    """Sampling down a network of one feature; a subclass is a frozen dataclass with the fields below, and says its step.

    Attributes:
        network: of one feature.
        defaults: the flow, with the field num_steps.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
    """

    network: FeatureNetwork
    _defaults_key = "flow"

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        check_scalar(self.network)
        _checks.positive("data_scale", self.data_scale)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.network.event_shape

    def _network(self) -> FeatureNetwork:
        return self.network

    def _step(self) -> FlowStep:
        """Return one step of the flow."""
        raise NotImplementedError

    def _steps(self, source: Tensor, settings: Any, generator: torch.Generator | None) -> Steps:
        states = flow_states(self._step(), settings, self.network, source, generator)
        return Steps(source, states, count=settings.num_steps, nfe=settings.num_steps)
