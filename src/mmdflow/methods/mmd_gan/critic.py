"""The critic's features, which know no noise level, and the divergence that they make of the base kernel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.divergences import MMD, Divergence
from mmdflow.divergences.witness import Witness
from mmdflow.features import FeatureNetwork
from mmdflow.kernels import Kernel
from mmdflow.types import Particles, Points, Weights


def features_of(critic: FeatureNetwork, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n K"]:
    """Return phi(x): the network at t = 0, whatever x is."""
    features: Tensor = critic(x, x.new_zeros(len(x)))
    return features


@torch.no_grad()
def references_of(critic: FeatureNetwork, base: Kernel, batches: Iterable[Tensor]) -> Float[Tensor, "N K"]:
    """Return the data's features for the flow: their mean, [1, K], for a linear base; those of every event for others."""
    phi = torch.cat([features_of(critic, batch) for batch in batches])
    return phi.double().mean(0, keepdim=True).to(phi) if base.finite else phi


class CriticMMD(Divergence):
    r"""F(nu) = 1/2 MMD^2(nu, mu) under k(x, y) = base(phi(x), phi(y)), with the features of mu's samples in place of the samples.

    Its witness is the critic's f(z) = E_nu k(z, x) - E_mu k(z, y).

    Args:
        critic: phi.
        base: the kernel on features.
        references: phi(y) of samples y of mu, or its mean where the base is linear, [N, K].
    """

    def __init__(self, critic: FeatureNetwork, base: Kernel, references: Float[Tensor, "N K"]) -> None:
        super().__init__()
        self.critic, self.inner = critic, MMD(references, base)
        self.event_shape = critic.event_shape

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F at the particles."""
        return self.inner(features_of(self.critic, x), weights)

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return f, frozen at the particles."""
        with torch.no_grad():
            return _Pulled(self.critic, self.inner.witness(features_of(self.critic, x), weights))

    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return -grad f, with f frozen at x, evaluated at `at` (default x, where one evaluation of phi serves both)."""
        if at is not None:
            return super().velocity(x, at, weights)
        z, phi = _traced(self.critic, x)
        return torch.autograd.grad(phi, z, self.inner.velocity(phi.detach(), weights=weights))[0]


class _Pulled:
    """A witness on features as one on events."""

    def __init__(self, critic: FeatureNetwork, inner: Witness) -> None:
        self.critic, self.inner = critic, inner

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        return self.inner(features_of(self.critic, z))

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i)."""
        z, phi = _traced(self.critic, z)
        return torch.autograd.grad(phi, z, self.inner.grad(phi.detach()))[0]


def _traced(critic: FeatureNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x anew, and the features that autograd can differentiate in it."""
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        return z, features_of(critic, z)
