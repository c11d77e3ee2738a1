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

    Example:
        >>> import torch
        >>> from mmdflow import Gaussian, KernelWitness, PotentialEnergy, flow
        >>> well = KernelWitness(Gaussian(1.0), torch.zeros(1, 2), -torch.ones(1))  # lowest at the origin
        >>> flow(PotentialEnergy(well), torch.ones(3, 2), step_size=1.0, num_steps=50).particles.abs().max() < 1e-3
        tensor(True)
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
