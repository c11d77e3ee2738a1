"""What the loss of DMMD returns: its parts at every noise level, and the monitors that tell collapse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.methods._shared.terms import StepTerms


@dataclass(frozen=True)
class LossTerms(StepTerms):
    """The loss and its parts at each of the L noise levels of a step.

    Attributes:
        levels: the noise levels t, increasing, [L].
        mmd2: the unbiased MMD^2 between noisy and clean samples, or the KL bound; in units of the distance between them if
            normalised, [L].
        unit: mean (|grad f| - 1)^2, [L].
        displacement: mean |grad f - n|^2, n the unit step from clean to noisy, [L].
        l2: mean squared feature, [L].
        slope: mean |grad f|, [L].
        contrast: |mean noisy phi - mean clean phi|^2 / E |phi|^2: the share of the features that tells noise from data, [L].
        participation: participation ratio of the clean features' covariance, (tr C)^2 / tr C^2, between 1 (collapsed) and K.
    """

    parts = ("mmd2", "unit", "displacement", "l2")
    levels: Float[Tensor, " L"]
    mmd2: Float[Tensor, " L"]
    unit: Float[Tensor, " L"]
    displacement: Float[Tensor, " L"]
    l2: Float[Tensor, " L"]
    slope: Float[Tensor, " L"]
    contrast: Float[Tensor, " L"]
    participation: Float[Tensor, ""]

    def scalars(self) -> dict[str, float]:
        """Return numbers to log: the mean over levels of every part, and slope and MMD^2 of the lowest and highest level."""
        names = ("mmd2", "unit", "displacement", "l2", "slope", "contrast")
        means = {name: float(getattr(self, name).mean()) for name in names}
        ends = {
            f"{name}_{end}": float(getattr(self, name)[i])
            for name in ("mmd2", "slope")
            for end, i in (("low", 0), ("high", -1))
        }
        return super().scalars() | means | {"participation": float(self.participation)} | ends

    def message(self, part: str) -> str:
        """Return which part is not finite, and the first noise level at which it is not."""
        level = self.levels[~torch.isfinite(getattr(self, part))][0]
        return f"{super().message(part)} at noise level t = {level:.4f}"


def participation(phi: Float[Tensor, "L n K"]) -> Float[Tensor, ""]:
    """Return (tr C)^2 / tr C^2 of the covariance of the features within levels; 0 where it vanishes.

    Both traces are those of the events' Gram matrix, which is the smaller one in training.
    """
    centred = (phi - phi.mean(1, keepdim=True)).flatten(0, 1)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    return gram.trace().square() / gram.square().sum().clamp_min(torch.finfo(phi.dtype).tiny)
