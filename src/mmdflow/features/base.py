"""What every feature network shares: the heads and the embedding of the noise level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdflow import _checks
from mmdflow.distributed import Ranks
from mmdflow.distributed.networks import by_parts
from mmdflow.errors import InputError

HEADS = ("flat", "squared_residual", "mixed")


class FeatureNetwork(nn.Module):
    r"""phi(x, t) with one of three heads on a network that subclasses give as `heads`, or as `outputs` for a head of one kind.

    * ``"flat"``: the network's K numbers are the features (the paper's).
    * ``"squared_residual"``: the network gives K event-shaped u_k and phi_k = D^(1/4) / 2 * mean over entries of
      (x - u_k(x, t))^2, D the entries of an event. Its gradient (1 - J_k^T) (x - u_k) has a denoiser's residual in it, which a
      flat read-out of an encoder has not. The factor makes |grad f| = 1 natural for the linear kernel's witness. Ours.
    * ``"mixed"``: the first `num_residuals` features are squared residuals, the others flat, read off hidden activations. The
      former point along the path; the latter differ between events, so that particles steer each other by them. Ours.

    Args:
        event_shape: the shape of an event.
        num_features: K.
        head: one of `HEADS`.
        num_residuals: squared residuals among the features of the mixed head; 4 by default.
        num_classes: classes that an event may be said to be of, as u_k(x, t, c); 0 for none. Heads then take a third tensor, a
            class for every event, [n], where num_classes stands for none.

    Raises:
        InputError: for `num_residuals` with another head, or not below `num_features`.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_features: int,
        head: str,
        num_residuals: int | None = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(_checks.count("event_shape", n) for n in event_shape)
        self.num_features = _checks.count("num_features", num_features)
        self.checkpointing, self.ranks = False, Ranks()
        self.head = _checks.choice("head", head, HEADS)
        self.num_residuals = self._residuals(num_residuals)
        self.num_classes = _checks.count("num_classes", num_classes, 0)

    def _residuals(self, given: int | None) -> int:
        """Return how many features are squared residuals."""
        if self.head != "mixed":
            if given is not None:
                raise InputError(f"num_residuals = {given!r} with head = {self.head!r}: is for head = 'mixed'")
            return 0 if self.head == "flat" else self.num_features
        count = _checks.count("num_residuals", 4 if given is None else given)
        if count >= self.num_features:
            raise InputError(
                f"num_features = {self.num_features} with head = 'mixed': must be above num_residuals = {count}"
            )
        return count

    def _new_classes(self, size: int) -> None:
        """Make a vector for each class, and one for none, beside what the noise level adds; nothing without classes."""
        if self.num_classes:
            self.of_class = nn.Embedding(self.num_classes + 1, size)

    def _with_class(self, level: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the level adds, and the classes."""
        return level if labels is None else level + self.of_class(labels)

    @property
    def num_flat(self) -> int:
        """The number of flat features."""
        return self.num_features - self.num_residuals

    @property
    def event_size(self) -> int:
        """The number of entries of an event, D."""
        return math.prod(self.event_shape)

    def enable_checkpointing(self) -> None:
        """From now on keep no activations inside blocks while training, but compute them again in the backward pass."""
        self.checkpointing = True

    def enable_compilation(self) -> None:
        """From now on evaluate `heads` through torch.compile, which fuses what is between the products.

        Compiled functions have no double backward: not for losses that hold a gradient in x.
        """
        self.heads = torch.compile(self.heads)  # type: ignore[method-assign]

    def share_rows(self, ranks: Ranks) -> None:
        """From now on evaluate this rank's part of the rows of a batch that all ranks give alike (`distributed.networks`)."""
        self.ranks = ranks

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, in plain types."""
        config: dict[str, Any] = {
            "event_shape": list(self.event_shape),
            "num_features": self.num_features,
            "head": self.head,
        }
        if self.head == "mixed":
            config["num_residuals"] = self.num_residuals
        if self.num_classes:
            config["num_classes"] = self.num_classes
        return config

    def checkpoint(self, block: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return block(*inputs); while training with `checkpointing`, its activations are computed again when needed."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(block, *inputs, use_reentrant=False)  # reentrant has no double backward
            return recomputed
        return block(*inputs)

    def heads(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return u, [n, num_residuals, *event], and the flat features, [n, num_flat]; None for what the head has none of."""
        out = self.outputs(x, t) if labels is None else self.outputs(x, t, labels)
        return (None, out) if self.head == "flat" else (out, None)

    def outputs(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return u, [n, K, *event], of the squared-residual head; [n, K] of the flat one.

        Args:
            x: events, [n, *event].
            t: noise levels, [n].
            labels: classes of the events, [n], of a network that knows classes; `num_classes` stands for none, the default.

        Raises:
            InputError: for labels of a network that knows no classes.
        """
        maps, flat = self._shared_heads(x, t, labels)
        out = flat if maps is None else maps
        assert out is not None
        return out

    def forward(self, x: Float[Tensor, "n *event"], t: Tensor | SupportsFloat) -> Float[Tensor, "n K"]:
        """Return phi(x_i, t_i), with one noise level for each event, [n], or one for all: any number, or a tensor [] or [1].

        Raises:
            InputError: for noise levels of another shape.
        """
        maps, flat = self._shared_heads(x, noise_levels(t, x))
        parts = [] if flat is None else [flat.to(x.dtype)]  # autocast may have lowered them
        if maps is not None:
            squares = (x.unsqueeze(1) - maps.to(x.dtype)).square().flatten(2).mean(2)
            parts.insert(0, self.event_size**0.25 / 2 * squares)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _shared_heads(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        inputs = [x, t]
        if self.num_classes:
            none = torch.full((len(x),), self.num_classes, device=x.device)
            inputs.append(none if labels is None else labels)
        elif labels is not None:
            raise InputError("labels: the network knows no classes (num_classes = 0); must not be given")
        if self.ranks.size == 1:
            return self.heads(*inputs)
        maps, flat = by_parts(self.heads, self.ranks, *inputs)
        return maps, flat

    def rescale_outputs(self, factor: float, shift: Float[Tensor, " *event"]) -> None:
        """Let every event-shaped output u be factor u + shift from now on.

        Raises:
            InputError: for a network without a bias of its own for every entry.

        Example:
            >>> from mmdflow.features import MLPFeatures
            >>> network = MLPFeatures((2,), num_features=1, width=16)
            >>> before = network.outputs(torch.zeros(5, 2), torch.zeros(5))
            >>> network.rescale_outputs(2.0, torch.tensor([0.0, 1.0]))
            >>> after = network.outputs(torch.zeros(5, 2), torch.zeros(5))
            >>> bool(torch.allclose(after, 2 * before + torch.tensor([0.0, 1.0]), atol=1e-6))
            True
        """
        raise InputError(f"network = {type(self).__name__}: has no bias for every entry; must be an mlp or a decoder")

    def hidden_modules(self) -> list[nn.Module]:
        """Return the modules whose inputs are the hidden states, from input to output."""
        raise InputError(f"network = {type(self).__name__}: gives no hidden states")

    def read_outs(self) -> list[nn.Module]:
        """Return the last layers, which give the heads."""
        return [part for name, part in self.named_children() if name in ("read_out", "read_flat")]

    def activations(self, x: Float[Tensor, "n *event"], t: Float[Tensor, " n"]) -> list[Tensor]:
        """Return phi(x_i, t_i) and the hidden states, from one evaluation, [n, C_l] each; large maps as 4 x 4 regions' means.

        Raises:
            InputError: for a network that gives no hidden states.

        Example:
            >>> from mmdflow.features import MLPFeatures
            >>> network = MLPFeatures((2,), num_features=3, width=16, depth=2)
            >>> [tuple(layer.shape) for layer in network.activations(torch.zeros(5, 2), torch.zeros(5))]
            [(5, 3), (5, 16), (5, 16)]
        """
        states: list[Tensor] = []
        handles = [
            module.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
            for module in self.hidden_modules()
        ]
        try:
            phi = self(x, t)
        finally:
            for handle in handles:
                handle.remove()
        return [phi, *(regions(state).to(x.dtype) for state in states)]


#: Side of the grid that maps are averaged over.
_GRID = 4


def regions(state: Tensor) -> Tensor:
    """Return maps [n, C, h, w] averaged over a grid of at most 4 x 4 regions, and flat; what has no maps, flat alone."""
    if state.ndim == 4:
        state = F.adaptive_avg_pool2d(state, regions_of(state.shape[2:]))
    return state.flatten(1)


def regions_of(sizes: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of the grid that `regions` takes of maps of these sizes."""
    height, width = (min(_GRID, size) for size in sizes)
    return height, width


def noise_levels(t: Tensor | SupportsFloat, x: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
    """Return one noise level an event, floating and on its device: diffusers would cut a Python number to a whole one.

    Raises:
        InputError: for a tensor of another shape than [], [1] and [n].
    """
    if not isinstance(t, Tensor) or not t.is_floating_point():
        t = torch.as_tensor(t if isinstance(t, Tensor) else float(t), dtype=torch.promote_types(x.dtype, torch.float32))
    if t.shape not in ((), (1,), (len(x),)):
        raise InputError(
            f"t has shape {list(t.shape)}: must be a number, or a tensor [], [1] or [{len(x)}], one an event"
        )
    return t.to(x.device).expand(len(x))


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
