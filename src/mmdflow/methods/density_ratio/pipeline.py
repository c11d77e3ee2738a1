"""A trained density ratio as one object and one folder: weights, source, settings of the flow, provenance."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError, reason
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.flow_pipeline import FlowPipeline
from mmdflow.methods._shared.pretrained import load_network, load_tensors
from mmdflow.methods.density_ratio.flow import RatioFlow
from mmdflow.methods.density_ratio.prior import GaussianPrior

SYSTEM = "dggf-kl"
PRIOR = "prior.safetensors"


@dataclass(frozen=True)
class DensityRatioPipeline(FlowPipeline):
    """A trained density ratio with all that sampling needs.

    Attributes:
        network: d, a network of one feature: log r, or r for the divergence pearson.
        prior: the source of the particles.
        defaults: the flow when not told otherwise.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.
    """

    network: FeatureNetwork
    prior: GaussianPrior
    defaults: RatioFlow
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = (SYSTEM,)

    def _source(self, num_particles: int, generator: torch.Generator | None) -> Float[Tensor, "n *event"]:
        return self.prior.sample(_checks.count("num_particles", num_particles), generator)

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "system": SYSTEM,
            "data_scale": self.data_scale,
            "flow": asdict(self.defaults),
            "prior": self.prior.kind,
            "provenance": self.provenance,
        }
        return self.network, config, {PRIOR: self.prior.state_dict()}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> DensityRatioPipeline:
        network = load_network(folder, config)
        return cls(
            network=network,
            prior=_load_prior(folder, GaussianPrior(network.event_shape, config["prior"])),
            defaults=RatioFlow(**config["flow"]),
            data_scale=config["data_scale"],
            provenance=config["provenance"],
        )


def _load_prior(folder: Path, prior: GaussianPrior) -> GaussianPrior:
    tensors = load_tensors(folder / PRIOR)
    try:
        prior.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder / PRIOR}: does not fit the network ({reason(error, 200)})") from error
    if not all(map(_checks.all_finite, tensors.values())):
        raise InputError(f"{folder / PRIOR}: holds NaN or infinite numbers")
    return prior
