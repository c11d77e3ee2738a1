"""A look at the particles while they are sampled, from features that the flow has computed anyway."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.methods.dmmd.targets.base import TargetLevel
from mmdflow.methods.dmmd.terms import participation
from mmdflow.types import SamplingMonitor


class Recorder:
    """Collects a `SamplingMonitor`: give it to `mmdflow.methods.dmmd.sample`, ask for the `result` afterwards."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._slopes: list[Tensor] = []
        self._max_slope: float | None = None

    def enter(self, t: float, max_slope: float | None) -> None:
        """Begin a noise level."""
        self._close()
        self._rows.append({"levels": t})
        self._max_slope = max_slope

    def watch(
        self, target: TargetLevel, shares: Tensor | None, phi: Float[Tensor, "n K"], slope: Float[Tensor, " n"]
    ) -> None:
        """Take in an evaluation of the gradient at the current level."""
        row = self._rows[-1]
        if not self._slopes:
            mismatch, scale = target.mismatch(phi, shares)
            row |= {"mismatch": mismatch, "relative_mismatch": mismatch / scale if scale > 0 else float("nan")}
            row["participation"] = float(participation(phi[None]))
        self._slopes.append(slope)

    def result(self) -> SamplingMonitor:
        """Return what was seen."""
        self._close()
        names = SamplingMonitor.__dataclass_fields__
        return SamplingMonitor(**{name: torch.tensor([row[name] for row in self._rows]) for name in names})

    def _close(self) -> None:
        if not self._slopes:
            return
        slopes = torch.cat(self._slopes)
        limit = torch.inf if self._max_slope is None else self._max_slope
        self._rows[-1] |= {"slope": float(slopes.mean()), "limited": float((slopes > limit).double().mean())}
        self._slopes = []
