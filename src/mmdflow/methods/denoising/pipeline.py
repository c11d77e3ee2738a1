"""A trained denoiser as one object and one folder: weights, schedule, sampler defaults, provenance."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.folder import load_network
from mmdflow.methods._shared.networks import check_event_map
from mmdflow.methods._shared.pretrained import SavedPipeline
from mmdflow.methods._shared.sampling import Steps
from mmdflow.methods.denoising.loss import check_prediction, velocity_of_residual
from mmdflow.methods.denoising.samplers import diffusion_states, ode_states
from mmdflow.methods.denoising.settings import (
    SETTINGS,
    DDPMSettings,
    DenoisingSettings,
    FlowMatchingSettings,
)
from mmdflow.noise import SCHEDULES, Schedule, schedule


@dataclass(frozen=True, repr=False)
class DenoisingPipeline(SavedPipeline):
    """A trained denoiser with all that sampling needs.

    Attributes:
        network: the network whose event-shaped output is the prediction.
        schedule: the forward diffusion, with its name in `schedule_name`.
        schedule_name: one of vp, ddpm, cosine (DDPM) or linear (flow matching).
        prediction: "noise" (DDPM), "velocity" or "residual" (flow matching); see `DenoisingLoss`.
        defaults: the sampler's settings: `DDPMSettings` or `FlowMatchingSettings`.
        levels: the lowest and highest noise level that the network was trained at; levels outside are moved to these.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.
        second_moment: mean square of the data's entries, scaled; of "residual".

    Example:
        >>> from mmdflow import LinearSchedule
        >>> from mmdflow.features import MLPFeatures
        >>> network, settings = MLPFeatures((2,), num_features=1), FlowMatchingSettings(num_levels=5)
        >>> pipe = DenoisingPipeline(network, LinearSchedule(), "linear", "velocity", settings)
        >>> pipe(4, sampler="heun").nfe
        10
    """

    network: FeatureNetwork
    schedule: Schedule
    schedule_name: str
    prediction: str
    defaults: DenoisingSettings
    levels: tuple[float, float] = (0.0, 1.0)
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    second_moment: float = 1.0
    systems: ClassVar[tuple[str, ...]] = ("ddpm", "flow-matching")
    settings: ClassVar[type] = DenoisingSettings

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        check_event_map(self.network)
        check_prediction(self.prediction, self.schedule)
        kind = SETTINGS[self.prediction]
        if not isinstance(self.defaults, kind):
            raise InputError(
                f"defaults = {self.defaults!r} with prediction = {self.prediction!r}: must be {kind.__name__}"
            )
        _checks.positive("data_scale", self.data_scale)
        _checks.positive("second_moment", self.second_moment)

    @property
    def system(self) -> str:
        """The system's name: ddpm or flow-matching."""
        return "ddpm" if self.prediction == "noise" else "flow-matching"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.network.event_shape

    def predict(self, x: Float[Tensor, "n *event"], t: float) -> Float[Tensor, "n *event"]:
        """Return the noise in particles of level t, or their velocity; in the model's units."""
        level = min(max(t, self.levels[0]), self.levels[1])
        output = self.network.outputs(x, x.new_full((len(x),), level))[:, 0]
        return velocity_of_residual(x, output, self.second_moment) if self.prediction == "residual" else output

    def _network(self) -> FeatureNetwork:
        return self.network

    def _steps(self, source: Tensor, settings: DenoisingSettings, generator: torch.Generator | None) -> Steps:
        if isinstance(settings, FlowMatchingSettings):
            states = ode_states(self.predict, source, settings)
            return Steps(
                source, states, settings.num_levels, settings.num_levels * (2 if settings.sampler == "heun" else 1)
            )
        assert isinstance(settings, DDPMSettings)
        clip = self.data_scale if settings.clip else None
        states = diffusion_states(self.predict, self.schedule, source, settings, clip=clip, generator=generator)
        return Steps(source, states, settings.num_levels, settings.num_levels)

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "system": self.system,
            "schedule": self.schedule_name,
            "levels": list(self.levels),
            "prediction": self.prediction,
            "second_moment": self.second_moment,
        }
        return self.network, config, {}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> DenoisingPipeline:
        low, high = config["levels"]
        plain = "noise" if config["system"] == "ddpm" else "velocity"
        prediction = _checks.choice("prediction", config.get("prediction", plain), SETTINGS)  # not in old folders
        kind = SETTINGS[prediction]
        sampler = {k: v for k, v in config["sampler"].items() if k != "clip" or kind is DDPMSettings}  # in old folders
        return cls(
            network=load_network(folder, config),
            schedule=schedule(_checks.choice("schedule", config["schedule"], SCHEDULES)),
            schedule_name=config["schedule"],
            prediction=prediction,
            defaults=kind(**sampler),
            levels=(float(low), float(high)),
            data_scale=config["data_scale"],
            provenance=config["provenance"],
            second_moment=config.get("second_moment", 1.0),
        )
