"""The recipes of denoisers: DDPM and flow matching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmdflow.errors import InputError
from mmdflow.methods._shared.recipes import EventRecipe
from mmdflow.methods.denoising.settings import (
    DDPMLossSettings,
    DDPMSettings,
    DenoisingSettings,
    FlowMatchingLossSettings,
    FlowMatchingSettings,
)


@dataclass(frozen=True)
class DenoisingRecipe(EventRecipe):
    """What the recipes of denoisers share: classes, and the guidance to them.

    Attributes:
        loss: the loss.
        sampling: the sampler.
    """

    loss: DDPMLossSettings = field(default_factory=DDPMLossSettings)
    sampling: DenoisingSettings = field(default_factory=DDPMSettings)

    def __post_init__(self) -> None:
        """Check that there is guidance only to classes that are learned."""
        super().__post_init__()
        if self.sampling.guidance == 0:
            return
        guided = f"sampling.guidance = {self.sampling.guidance:g}"
        if not self.loss.by_class:
            raise InputError(f"{guided} without loss.by_class: guides to classes")
        if self.loss.label_dropout == 0:
            raise InputError(
                f"{guided} with loss.label_dropout = 0: needs the prediction for all classes; must be above 0"
            )


@dataclass(frozen=True)
class DDPMRecipe(DenoisingRecipe):
    """All of a DDPM run; the network's output is the noise.

    Attributes:
        system: ddpm.
        schedule: the forward diffusion: ddpm, vp or cosine.
        loss: the loss.
        sampling: the sampler.
    """

    system: Literal["ddpm"] = "ddpm"
    schedule: Literal["ddpm", "vp", "cosine"] = "ddpm"
    loss: DDPMLossSettings = field(default_factory=DDPMLossSettings)
    sampling: DDPMSettings = field(default_factory=DDPMSettings)

    @property
    def prediction(self) -> str:
        """What the network's output stands for."""
        return "noise"


@dataclass(frozen=True)
class FlowMatchingRecipe(DenoisingRecipe):
    """All of a run of flow matching; the network's output gives the velocity.

    Attributes:
        system: flow-matching.
        schedule: the straight path: linear.
        loss: the loss.
        sampling: the sampler.
    """

    system: Literal["flow-matching"] = "flow-matching"
    schedule: Literal["linear"] = "linear"
    loss: FlowMatchingLossSettings = field(default_factory=FlowMatchingLossSettings)
    sampling: FlowMatchingSettings = field(default_factory=FlowMatchingSettings)

    @property
    def prediction(self) -> str:
        """What the network's output stands for."""
        return self.loss.output
