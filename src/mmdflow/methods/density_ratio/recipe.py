"""The recipe of DGGF-KL."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow.methods._shared.recipes import ScalarRecipe
from mmdflow.methods.density_ratio.settings import DensityRatioLossSettings


@dataclass(frozen=True)
class DensityRatioRecipe(ScalarRecipe):
    """All of a run of DGGF-KL.

    Attributes:
        system: dggf-kl.
        features: the network; its one number is the log of the density ratio, or the ratio (lsif).
        loss: the source, the flow and the loss.
    """

    system: Literal["dggf-kl"] = "dggf-kl"
    loss: DensityRatioLossSettings = field(default_factory=DensityRatioLossSettings)

    def smallest(self) -> DensityRatioRecipe:
        """Return the recipe with one event and one step of the flow."""
        return replace(self, training=replace(self.training, batch_size=1), loss=replace(self.loss, num_steps=1))
