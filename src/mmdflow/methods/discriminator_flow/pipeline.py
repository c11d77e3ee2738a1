"""A trained discriminator flow as one object and one folder: weights, settings of the flow, provenance."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.folder import load_network
from mmdflow.methods._shared.gradient_flow import FlowPipeline, FlowStep
from mmdflow.methods.discriminator_flow.flow import discriminator_step
from mmdflow.methods.discriminator_flow.settings import DiscriminatorFlow


@dataclass(frozen=True, repr=False)
class DiscriminatorFlowPipeline(FlowPipeline):
    """A trained discriminator with all that sampling needs.

    Attributes:
        network: D, a network of one feature, high on particles.
        defaults: the flow.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> pipe = DiscriminatorFlowPipeline(MLPFeatures((2,), 1, "flat"), DiscriminatorFlow(num_steps=4))
        >>> pipe(5).nfe, pipe(5, num_steps=2).nfe
        (4, 2)
    """

    network: FeatureNetwork
    defaults: DiscriminatorFlow
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = ("discriminator-flow",)
    settings: ClassVar[type] = DiscriminatorFlow

    def _step(self) -> FlowStep:
        return discriminator_step

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        return self.network, {}, {}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> DiscriminatorFlowPipeline:
        return cls(load_network(folder, config), **cls._common(config))
