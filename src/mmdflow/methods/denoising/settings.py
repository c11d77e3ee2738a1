"""Settings of denoisers: of the losses and the samplers of DDPM and flow matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmdflow import _checks, _settings
from mmdflow.errors import InputError
from mmdflow.methods._shared.label_dropout import LABEL_DROPOUT, check_label_dropout

#: What a network can predict; DDPM's the noise, flow matching's the velocity or what an event's residual to it says.
PREDICTIONS = ("noise", "velocity", "residual")
#: Steps of the discrete diffusion; its step i = 1, ..., 1000 is the noise level t = i / 1000.
NUM_STEPS = 1000


@dataclass(frozen=True)
class DDPMLossSettings:
    """Which noise levels the loss draws, and whether the network is told classes.

    Attributes:
        t_min: lowest noise level.
        t_max: highest noise level.
        level_power: levels are t_min + (t_max - t_min) u^level_power with u uniform: below 1 favours high noise.
        by_class: whether the network is told the class of an event, of data with labels.
        label_dropout: share of the events whose class is left out, so that the network knows the flow of all classes, too, which
            guidance needs (Ho and Salimans 2022, Algorithm 1); with by_class.
    """

    section: ClassVar[str] = "loss."
    t_min: float = 0.001
    t_max: float = 1.0
    level_power: float = 1.0
    by_class: bool = False
    label_dropout: float = LABEL_DROPOUT

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.interval("loss.t_min", self.t_min, 0.0, 1.0, "[)")
        _checks.interval("loss.t_max", self.t_max, self.t_min, 1.0, "(]")
        check_label_dropout("loss.", self.label_dropout, self.by_class)
        _settings.check(self, positive=["level_power"])


@dataclass(frozen=True)
class FlowMatchingLossSettings(DDPMLossSettings):
    """Which noise levels the loss draws, from t = 0, and what the network's output u stands for.

    Attributes:
        output: velocity (v = u), or residual (v = sqrt(m + 1) (x - u), m the mean square of the data's entries), in which an
            output of 0 already points from noise to the origin.
    """

    t_min: float = 0.0
    output: Literal["velocity", "residual"] = "velocity"


@dataclass(frozen=True)
class DenoisingSettings:
    """How a denoiser samples; `DDPMSettings` and `FlowMatchingSettings` say which samplers there are.

    Attributes:
        num_levels: steps from noise to data.
        sampler: how a step is made.
        guidance: weight g of (1 + g) prediction for the class - g prediction for all classes (Ho and Salimans 2022, eq. 6); a
            step then evaluates the network twice as often.
    """

    section: ClassVar[str] = "sampling."
    num_levels: int
    sampler: str
    guidance: float = 0.0

    def __post_init__(self) -> None:
        """Check the fields."""
        _settings.check(self, counts=["num_levels"], non_negative=["guidance"])


@dataclass(frozen=True)
class DDPMSettings(DenoisingSettings):
    """How a DDPM samples.

    Attributes:
        num_levels: steps from noise to data, a divisor of 1000.
        sampler: ancestral or ddim.
        clip: keep the predicted clean sample in [-1, 1], as Ho et al. do; for images.
        guidance: weight g of (1 + g) prediction for the class - g prediction for all classes.
    """

    num_levels: int = 100
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    clip: bool = True

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if NUM_STEPS % self.num_levels:
            raise InputError(f"sampling.num_levels = {self.num_levels}: must divide 1000, the steps of the diffusion")


@dataclass(frozen=True)
class FlowMatchingSettings(DenoisingSettings):
    """How flow matching samples.

    Attributes:
        num_levels: steps from noise to data.
        sampler: euler; heun, of second order, which evaluates the network twice a step; or adams_bashforth, of second order for
            one evaluation.
        guidance: weight g of (1 + g) velocity for the class - g velocity for all classes.
    """

    num_levels: int = 50
    sampler: Literal["euler", "heun", "adams_bashforth"] = "euler"


#: The sampler's settings, by what the network predicts.
SETTINGS: dict[str, type[DenoisingSettings]] = {
    "noise": DDPMSettings,
    "velocity": FlowMatchingSettings,
    "residual": FlowMatchingSettings,
}
