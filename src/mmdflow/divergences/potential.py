"""Potential energies: functionals that are linear in the measure (Ambrosio, Gigli, Savare 2008, section 9.3)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mmdflow.divergences.base import Divergence, uniform
from mmdflow.divergences.witness import Witness


class PotentialEnergy(Divergence):
    """F(nu) = E_nu V: its witness is V itself whatever the particles, so particles move independently of each other.

    Args:
        potential: V, any `Witness`.
        event_shape: the shape of an event, checked when given.
    """

    def __init__(self, potential: Witness, event_shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.potential, self.event_shape = potential, event_shape

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return the mean of V over the particles."""
        return uniform(x, weights) @ self.potential(x)

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return V."""
        return self.potential
