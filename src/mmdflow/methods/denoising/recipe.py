"""The recipes of denoisers: DDPM and flow matching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmdflow.methods._shared.recipes import EventRecipe
from mmdflow.methods.denoising.settings import (
    DDPMLossSettings,
    DDPMSettings,
    FlowMatchingLossSettings,
    FlowMatchingSettings,
)


@dataclass(frozen=True)
class DDPMRecipe(EventRecipe):
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
class FlowMatchingRecipe(EventRecipe):
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
