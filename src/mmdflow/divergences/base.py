"""The base class of divergences."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.witness import Witness


class Divergence(nn.Module):
    """F(nu) = D(nu, mu) of particles nu to a target mu, which is given to the constructor and precomputed there.

    The law that every divergence obeys and is tested against, with the witness f = first variation of F at the particles:
    n * dF/dx_i = grad f(x_i).
    """

    #: The shape of an event of the target, or None where any shape will do.
    event_shape: tuple[int, ...] | None = None

    def forward(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, ""]:
        """Return F at the particles x (V-statistic)."""
        raise NotImplementedError

    def witness(self, x: Float[Tensor, "n *event"]) -> Witness:
        """Return the first variation f of F at the particles x."""
        raise NotImplementedError

    def velocity(
        self, x: Float[Tensor, "n *event"], at: Float[Tensor, "k *event"] | None = None
    ) -> Float[Tensor, "k *event"]:
        """Return -grad f, with f frozen at the particles x, evaluated at `at` (default: at x)."""
        return -self.witness(x).grad(x if at is None else at)

    def check(self, x: Tensor, field: str = "particles") -> Tensor:
        """Return x if it is finite, floating, and of this target's event shape, dtype and device; else raise InputError."""
        _checks.points(field, x, self.event_shape)
        for target in self.buffers(recurse=False):
            _checks.alike(field, x, target)
        return x
