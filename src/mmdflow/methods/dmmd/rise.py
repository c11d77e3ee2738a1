"""A word where constant steps of the exact flow are too long: its 1/2 MMD^2 must not rise over the steps of a level."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.divergences import Divergence, VelocityField
from mmdflow.flows import Record, flow
from mmdflow.methods.dmmd.fields import LevelField

log = logging.getLogger(__name__)

#: Halvings of the step that are tried before no shorter one is named.
_HALVINGS = 12


class RiseWarning:
    """Watches for a level at which 1/2 MMD^2 of the particles to the clean data rises over its steps.

    It compares the first and the last evaluation of the level, whose features are at hand. It warns once, with a step size that
    would not have let the value rise: the first of the halved ones, tried from the particles that entered the level. These
    trials are not counted as evaluations.
    """

    def __init__(self) -> None:
        self.warned = False
        self._ends: list[Tensor] = []

    def watch(self, field: VelocityField, phi: Float[Tensor, "n K"]) -> None:
        """Take in the features of an evaluation, of which the first and the last are kept; of a field without F, nothing."""
        if not self.warned and isinstance(field, Divergence):
            self._ends = [*self._ends[:1], phi]

    def leave(self, field: LevelField, entered: Tensor, t: float, eta: float, steps: int) -> None:
        """End a level; warn if the value rose.

        Args:
            field: of the level.
            entered: the particles that entered it.
            t: its noise level.
            eta: its step size.
            steps: its steps.
        """
        ends, self._ends = self._ends, []
        divergence = field.on_features
        if len(ends) < 2 or not isinstance(divergence, Divergence):
            return
        before, after = (float(divergence(phi)) for phi in ends)
        if not after > before:
            return
        self.warned = True
        log.warning(
            "noise level t = %.4f: 1/2 MMD^2 rose from %.3g to %.3g over steps of step_size = %g; %s",
            t,
            before,
            after,
            eta,
            _advice(field, divergence, entered, before, eta, steps),
        )


def _advice(field: LevelField, divergence: Divergence, entered: Tensor, before: float, eta: float, steps: int) -> str:
    for halvings in range(1, _HALVINGS + 1):
        shorter = eta / 2**halvings
        end = flow(field, entered, step_size=shorter, num_steps=steps - 1, save_every=Record(evaluate=False)).particles
        with torch.no_grad():
            if float(divergence(field.features(end))) <= before:
                return f"with {shorter:g} it would not"
    return "no shorter step keeps it from rising"
