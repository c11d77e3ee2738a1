"""What every feature network shares: the two heads and the embedding of the noise level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdflow import _checks
from mmdflow.errors import InputError

HEADS = ("flat", "squared_residual")
GRADIENTS = ("full", "semi")


class FeatureNetwork(nn.Module):
    r"""phi(x, t) with one of two heads on a network that subclasses give as `outputs`.

    * ``"flat"``: the network's K numbers are the features.
    * ``"squared_residual"``: the network gives K event-shaped u_k and phi_k = D^(1/4) / 2 * mean over entries of
      (x - u_k(x, t))^2, D the entries of an event. Its gradient x - u_k is a denoiser's residual, which a flat read-out of an
      encoder is not. The factor makes |grad f| = 1 natural for the linear kernel's witness. Ours, not the paper's.

    Args:
        event_shape: the shape of an event.
        num_features: K.
        head: one of `HEADS`.
        gradient: "full", or "semi" (squared residual only): the gradient in x holds u_k fixed, so that it is
            D^(-3/4) (x - u_k) instead of D^(-3/4) (1 - J_k^T) (x - u_k). One forward of the network instead of a forward and a
            backward, and no double backward in training; the velocity is then not the gradient of a function. Ours.
    """

    def __init__(self, event_shape: Sequence[int], num_features: int, head: str, gradient: str = "full") -> None:
        super().__init__()
        self.event_shape = tuple(_checks.count("event_shape", n) for n in event_shape)
        self.num_features = _checks.count("num_features", num_features)
        self.checkpointing = False
        self.head = _checks.choice("head", head, HEADS)
        self.gradient = _checks.choice("gradient", gradient, GRADIENTS)
        if (head, gradient) == ("flat", "semi"):
            raise InputError("gradient = 'semi' with head = 'flat': needs head = 'squared_residual'")

    @property
    def event_size(self) -> int:
        """The number of entries of an event, D."""
        return math.prod(self.event_shape)

    def enable_checkpointing(self) -> None:
        """From now on keep no activations inside blocks while training, but compute them again in the backward pass."""
        self.checkpointing = True

    def enable_compilation(self) -> None:
        """From now on evaluate `outputs` through torch.compile, which fuses what is between the products.

        Compiled functions have no double backward: not for training with the full gradient.
        """
        self.outputs = torch.compile(self.outputs)  # type: ignore[method-assign]

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, in plain types."""
        return {
            "event_shape": list(self.event_shape),
            "num_features": self.num_features,
            "head": self.head,
            "gradient": self.gradient,
        }

    def checkpoint(self, block: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return block(*inputs); while training with `checkpointing`, its activations are computed again when needed."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(block, *inputs, use_reentrant=False)  # reentrant has no double backward
            return recomputed
        return block(*inputs)

    def outputs(self, x: Tensor, t: Tensor) -> Tensor:
        """Return [n, K] for the flat head, [n, K, *event] for the squared residual."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "n *event"], t: Float[Tensor, " n"]) -> Float[Tensor, "n K"]:
        """Return phi(x_i, t_i)."""
        out = self.outputs(x.detach() if self.gradient == "semi" else x, t).to(x.dtype)  # autocast may have lowered it
        if self.head == "flat":
            return out
        return self.event_size**0.25 / 2 * (x.unsqueeze(1) - out).square().flatten(2).mean(2)


def image_channels(event_shape: Sequence[int], channels: Sequence[int], patch: int = 1) -> tuple[int, ...]:
    """Return the channels of each resolution, checked: events are images that every halving, and the patch, divides."""
    if len(event_shape) != 3:
        raise InputError(f"event_shape = {list(event_shape)}: must be [channels, height, width]")
    checked = tuple(_checks.count("channels", c) for c in channels)
    _checks.count("number of channels", len(checked))
    factor = patch * 2 ** (len(checked) - 1)
    if any(size % factor for size in event_shape[1:]):
        raise InputError(f"event_shape = {list(event_shape)}: height and width must be divisible by {factor}")
    return checked


class LevelEmbedding(nn.Module):
    """Sines and cosines of the noise level t in [0, 1], at frequencies pi/2 to 15 pi: [n] -> [n, size]."""

    frequencies: Tensor

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(0, math.log(30.0), size // 2)) * math.pi / 2
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Float[Tensor, " n"]) -> Float[Tensor, "n size"]:
        """Return the embedding."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)
