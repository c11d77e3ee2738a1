"""The chain of maps: what training and sampling both apply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow.features import FeatureNetwork


class Clip(torch.autograd.Function):
    """Entries in [-bound, bound]; the gradient of one outside is kept where descent leads back, so that none is lost there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        """Return x, clamped."""
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(-bound, bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient where x is inside, or descent leads back inside."""
        (x,) = ctx.saved_tensors
        return gradient * ((x.abs() <= ctx.bound) | (x * gradient > 0)), None


def move(network: FeatureNetwork, x: Float[Tensor, "n *event"], clip: float | None = None) -> Float[Tensor, "n *event"]:
    """Return T(x) = x + u(x), u the network's event-shaped output (at the constant level t = 0), its entries in [-clip, clip].

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> x = torch.tensor([[0.5, -2.0]])
        >>> move(start_at_identity(MLPFeatures((2,), num_features=1)), x, clip=1.0).tolist()
        [[0.5, -1.0]]
    """
    moved = x + network.outputs(x, x.new_zeros(len(x)))[:, 0]
    if clip is not None:
        moved = Clip.apply(moved, clip)
    return moved


def push(
    networks: Iterable[nn.Module], x: Float[Tensor, "n *event"], clip: float | None = None
) -> Iterator[Float[Tensor, "n *event"]]:
    """Yield x after every map of a chain, without gradients."""
    for network in networks:
        assert isinstance(network, FeatureNetwork)
        with torch.no_grad():
            x = move(network, x, clip)
        yield x


def start_at_identity(network: FeatureNetwork) -> FeatureNetwork:
    """Make T the identity by a last layer of zeros; return the network."""
    *_, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return network
