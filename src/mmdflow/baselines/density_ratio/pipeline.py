"""A trained density ratio as one object and one folder: weights, source, settings of the flow, provenance."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._pretrained import SampleOutput, SavedPipeline, load_network, load_tensors
from mmdflow.baselines.density_ratio.flow import RatioFlow
from mmdflow.baselines.density_ratio.prior import GaussianPrior
from mmdflow.baselines.networks import check_scalar
from mmdflow.baselines.sampling import collect, draw_source
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork

SYSTEM = "dggf-kl"
PRIOR = "prior.safetensors"


@dataclass(frozen=True)
class DensityRatioPipeline(SavedPipeline):
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
            num_steps: K, steps of the flow, each one gradient of the network.
            step_size: eta, of a step.
            generator: of the source and the flow's noise.
            particles: the source instead of the prior's samples, [n, *event]; then num_particles is not used.
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
        if particles is None:
            source = self.prior.sample(_checks.count("num_particles", num_particles), generator)
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
        raise InputError(
            f"{folder / PRIOR}: does not fit the network ({' '.join(str(error).split())[:200]})"
        ) from error
    if not all(bool(torch.isfinite(one).all()) for one in tensors.values()):
        raise InputError(f"{folder / PRIOR}: holds NaN or infinite numbers")
    return prior
