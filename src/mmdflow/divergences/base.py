"""The base class of divergences."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.witness import Witness


class Divergence(nn.Module):
    """F(nu) = D(nu, mu) of particles nu to a target mu, which is given to the constructor and precomputed there.

    Particles may carry weights w >= 0 with sum 1 (1/n each by default). The laws that every divergence obeys and is tested
    against, with the witness f = first variation of F at the particles: dF/dx_i = w_i grad f(x_i), and dF/dw_i = f(x_i) up to
    a constant.
    """

    #: The shape of an event of the target, or None where any shape will do.
    event_shape: tuple[int, ...] | None = None

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F at the particles x (V-statistic)."""
        raise NotImplementedError

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return the first variation f of F at the particles x."""
        raise NotImplementedError

    def velocity(
        self,
        x: Float[Tensor, "n *event"],
        at: Float[Tensor, "k *event"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "k *event"]:
        """Return -grad f, with f frozen at the particles x, evaluated at `at` (default: at x)."""
        return -self.witness(x, weights).grad(x if at is None else at)

    def check(self, x: Tensor, field: str = "particles") -> Tensor:
        """Return x if it is finite, floating, and of this target's event shape, dtype and device; else raise InputError."""
        _checks.points(field, x, self.event_shape)
        for target in self.buffers(recurse=False):
            _checks.alike(field, x, target)
        return x


def uniform(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the weights, 1/n each by default, [n]."""
    return x.new_full((len(x),), 1 / len(x)) if weights is None else weights
