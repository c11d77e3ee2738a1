"""A trained density ratio as one object and one folder: weights, source, settings of the flow, provenance."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError, reason
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.folder import load_network, load_tensors
from mmdflow.methods._shared.gradient_flow import FlowPipeline, FlowStep
from mmdflow.methods.density_ratio.flow import ratio_step
from mmdflow.methods.density_ratio.prior import GaussianPrior
from mmdflow.methods.density_ratio.settings import RatioFlow
from mmdflow.types import ArrayLike

PRIOR = "prior.safetensors"


@dataclass(frozen=True, repr=False)
class DensityRatioPipeline(FlowPipeline):
    """A trained density ratio with all that sampling needs.

    Attributes:
        network: d, a network of one feature: log r, or r for the divergence pearson.
        prior: the source of the particles.
        defaults: the flow.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> network, prior = MLPFeatures((2,), 1, "flat"), GaussianPrior((2,), "standard")
        >>> pipe = DensityRatioPipeline(network, prior, RatioFlow(num_steps=4))
        >>> pipe(5).nfe, pipe(5, num_steps=2, noise=0.0).nfe
        (4, 2)
    """

    network: FeatureNetwork
    prior: GaussianPrior
    defaults: RatioFlow
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = ("dggf-kl",)
    settings: ClassVar[type] = RatioFlow

    def _step(self) -> FlowStep:
        return ratio_step

    def _settings(self, changes: dict[str, Any]) -> RatioFlow:
        settings: RatioFlow = super()._settings(changes)
        if (settings.divergence == "pearson") != (self.defaults.divergence == "pearson"):
            learned, needed = ("r", "pearson") if self.defaults.divergence == "pearson" else ("log r", "kl, js or logd")
            raise InputError(
                f"divergence = {settings.divergence!r}: must be {needed}; the network has learned {learned}"
            )
        return settings

    def _start(
        self, num_particles: int, particles: ArrayLike | None, generator: torch.Generator | None, settings: RatioFlow
    ) -> Tensor:
        if particles is not None:
            return super()._start(num_particles, particles, generator, settings)
        return self.prior.sample(_checks.count("num_particles", num_particles), generator)

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        return self.network, {"prior": self.prior.kind}, {PRIOR: self.prior.state_dict()}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> DensityRatioPipeline:
        network = load_network(folder, config)
        prior = _load_prior(folder, GaussianPrior(network.event_shape, config["prior"]))
        return cls(network, prior, **cls._common(config))


def _load_prior(folder: Path, prior: GaussianPrior) -> GaussianPrior:
    tensors = load_tensors(folder / PRIOR)
    try:
        prior.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder / PRIOR}: does not fit the network ({reason(error, 200)})") from error
    if not all(map(_checks.all_finite, tensors.values())):
        raise InputError(f"{folder / PRIOR}: holds NaN or infinite numbers")
    return prior
