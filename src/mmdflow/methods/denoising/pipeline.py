"""A trained denoiser as one object and one folder: weights, schedule, sampler defaults, provenance."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.classes import ClassPipeline
from mmdflow.methods._shared.folder import load_network
from mmdflow.methods._shared.networks import check_event_map
from mmdflow.methods._shared.sampling import Steps
from mmdflow.methods.denoising.loss import check_prediction, velocity_of_residual
from mmdflow.methods.denoising.samplers import Predictor, diffusion_states, ode_states
from mmdflow.methods.denoising.settings import (
    SETTINGS,
    DDPMSettings,
    DenoisingSettings,
    FlowMatchingSettings,
)
from mmdflow.noise import SCHEDULES, Schedule, schedule


@dataclass(frozen=True, repr=False)
class DenoisingPipeline(ClassPipeline):
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
        shares: the share of every class in the data, by which classes are drawn where none is given, [C]; None for a network that
            knows no class.
        guidable: whether the network knows the prediction for all classes, too, as guidance needs.

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
    shares: Float[Tensor, " C"] | None = None
    guidable: bool = False
    systems: ClassVar[tuple[str, ...]] = ("ddpm", "flow-matching")
    settings: ClassVar[type] = DenoisingSettings
    _no_classes: ClassVar[str] = (
        "the network knows no classes; must not be given (loss.by_class=true trains one that does)"
    )

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
        known = 0 if self.shares is None else len(self.shares)
        if known != self.network.num_classes:
            raise InputError(
                f"shares: hold {known} numbers: must be {self.network.num_classes}, one a class of the network"
            )
        self._check_guidance(self.defaults)

    @property
    def system(self) -> str:
        """The system's name: ddpm or flow-matching."""
        return "ddpm" if self.prediction == "noise" else "flow-matching"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.network.event_shape

    def predict(
        self, x: Float[Tensor, "n *event"], t: float, labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n *event"]:
        """Return the noise in particles of level t, or their velocity; in the model's units.

        Args:
            x: the particles.
            t: their noise level.
            labels: their classes, of a network that knows classes; by default the prediction is for all classes.
        """
        level = min(max(t, self.levels[0]), self.levels[1])
        output = self.network.outputs(x, x.new_full((len(x),), level), *([] if labels is None else [labels]))[:, 0]
        return velocity_of_residual(x, output, self.second_moment) if self.prediction == "residual" else output

    def _guided(self, labels: Tensor | None, guidance: float) -> Predictor:
        """Return (x, t) -> (1 + g) prediction for the labels - g prediction for all classes."""
        if labels is None or guidance == 0:
            return partial(self.predict, labels=labels)
        none = torch.full_like(labels, self.network.num_classes)

        def predict(x: Tensor, t: float) -> Tensor:
            of_class, of_all = self.predict(torch.cat([x, x]), t, torch.cat([labels, none])).chunk(2)
            return of_class + guidance * (of_class - of_all)

        return predict

    def _check_guidance(self, settings: DenoisingSettings) -> None:
        """Raise InputError for guidance that the network did not learn."""
        if settings.guidance > 0 and not self.guidable:
            lacks = "classes" if self.shares is None else "the prediction for all classes (loss.label_dropout)"
            raise InputError(f"guidance = {settings.guidance:g}: must be 0, the network has not learned {lacks}")

    def _settings(self, changes: dict[str, Any]) -> DenoisingSettings:
        settings: DenoisingSettings = super()._settings(changes)
        self._check_guidance(settings)
        return settings

    def _network(self) -> FeatureNetwork:
        return self.network

    def _steps_of(
        self, source: Tensor, labels: Tensor | None, settings: DenoisingSettings, generator: torch.Generator | None
    ) -> Steps:
        predict, count = self._guided(labels, settings.guidance), settings.num_levels
        nfe = count * (2 if settings.guidance > 0 else 1)
        if isinstance(settings, FlowMatchingSettings):
            states = ode_states(predict, source, settings)
            return Steps(source, states, count, nfe * (2 if settings.sampler == "heun" else 1))
        assert isinstance(settings, DDPMSettings)
        clip = self.data_scale if settings.clip else None
        states = diffusion_states(predict, self.schedule, source, settings, clip=clip, generator=generator)
        return Steps(source, states, count, nfe)

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config: dict[str, Any] = {
            "system": self.system,
            "schedule": self.schedule_name,
            "levels": list(self.levels),
            "prediction": self.prediction,
            "second_moment": self.second_moment,
        }
        if self.shares is not None:
            config |= {"shares": self.shares.tolist(), "guidable": self.guidable}
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
            shares=torch.tensor(config["shares"]) if "shares" in config else None,
            guidable=config.get("guidable", False),
        )
