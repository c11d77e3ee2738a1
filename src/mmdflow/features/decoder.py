"""A network that goes through a short code: an event becomes a code, the code an event."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.features.base import FeatureNetwork, LevelEmbedding

#: Maps up to which a doubling is quicker as a convolution of the coarse maps.
_FEW = 4
#: Taps of the kernel that fall on even and on odd pixels, from the coarse pixel before to that behind.
_TAPS = [[3, 1], [2, 0]]


class DecoderFeatures(FeatureNetwork):
    """A linear map of the event to a code, residual blocks on it, and maps that are doubled until they have the event's size.

    As a generator it is quick: noise of an event's shape becomes a code of as many Gaussian numbers as `code` says, and hardly
    anything is computed at the full resolution.

    Args:
        event_shape: (channels, height, width); height and width divisible by 2^len(channels).
        num_features: K.
        head: "flat", "squared_residual" or "mixed"; flat features are read off the last hidden layer before the maps.
        num_residuals: of the mixed head.
        code: numbers of the code.
        width: units of the blocks.
        depth: residual blocks on the code.
        channels: of the maps before each doubling, finest first.
        num_classes: that an event may be said to be of; 0 for none.

    Example:
        >>> import torch
        >>> network = DecoderFeatures((1, 28, 28), num_features=1, width=32)
        >>> network.outputs(torch.zeros(5, 1, 28, 28), torch.zeros(5)).shape
        torch.Size([5, 1, 1, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_features: int = 4,
        head: str = "squared_residual",
        num_residuals: int | None = None,
        code: int = 64,
        width: int = 256,
        depth: int = 1,
        channels: tuple[int, ...] | list[int] = (16, 32),
        num_classes: int = 0,
    ) -> None:
        super().__init__(event_shape, num_features, head, num_residuals, num_classes)
        self.code, self.width = _checks.count("code", code), _checks.count("width", width)
        self.depth = _checks.count("depth", depth)
        self.channels = tuple(_checks.count("channels", c) for c in channels)
        self.coarse = self._coarse()
        self.level = nn.Sequential(LevelEmbedding(32), nn.Linear(32, width))
        self._new_classes(width)
        self.encode, self.stem = nn.Linear(self.event_size, code), nn.Linear(code, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth + 1))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        if self.num_flat:
            self.read_flat = nn.Linear(width, self.num_flat)
        if not self.num_residuals:
            return
        self.grow = nn.Linear(width, self.channels[-1] * math.prod(self.coarse))
        below = list(reversed(self.channels))
        self.map_norms = nn.ModuleList(nn.GroupNorm(math.gcd(4, c), c) for c in below)
        self.doublings = nn.ModuleList(Doubling(c, after) for c, after in itertools.pairwise(below))
        outputs = self.num_residuals * self.event_shape[0]
        self.read_out = Doubling(below[-1], outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs, *self.event_shape[1:]))  # of every entry

    def _coarse(self) -> tuple[int, int]:
        """Return the size of the coarsest maps."""
        factor = 2 ** _checks.count("number of channels", len(self.channels))
        if len(self.event_shape) != 3 or any(size % factor for size in self.event_shape[1:]):
            raise InputError(
                f"event_shape = {list(self.event_shape)}: must be [channels, height, width], height and width divisible by "
                f"{factor}"
            )
        return self.event_shape[1] // factor, self.event_shape[2] // factor

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, in plain types."""
        own = {"code": self.code, "width": self.width, "depth": self.depth, "channels": list(self.channels)}
        return {**super().config(), **own}

    def hidden_modules(self) -> list[nn.Module]:
        """Return the blocks, and what follows them."""
        return [*self.norms[1:], *([self.doublings[0]] if self.num_residuals and len(self.doublings) else [])]

    def rescale_outputs(self, factor: float, shift: Tensor) -> None:
        """Let every event-shaped output u be factor u + shift from now on."""
        with torch.no_grad():
            self.read_out.weight.mul_(factor)
            self.bias.mul_(factor).add_(shift.repeat(self.num_residuals, 1, 1))

    def heads(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return u, [n, num_residuals, *event], and the flat features, [n, num_flat]; None for what the head has none of."""
        h = self.stem(self.encode(x.flatten(1))) + self._with_class(self.level(t), labels)
        for norm, block in zip(self.norms, self.blocks, strict=False):
            h = self.checkpoint(partial(_residual, norm, block), h)
        h = F.silu(self.norms[-1](h))
        flat = self.read_flat(h) if self.num_flat else None
        if not self.num_residuals:
            return None, flat
        h = self.grow(h).unflatten(1, (self.channels[-1], *self.coarse))
        for norm, double in zip(self.map_norms, [*self.doublings, self.read_out], strict=True):
            h = double(F.silu(norm(h)))
        return (h + self.bias).unflatten(1, (self.num_residuals, self.event_shape[0])), flat


class Doubling(nn.ConvTranspose2d):
    """Maps of twice the side: a transposed convolution with kernels of 4 x 4, stride 2.

    Every pixel of the fine maps has 2 x 2 of the coarse ones under its kernel. So the even and odd rows and columns are four
    convolutions of the coarse maps, which are made as one where there are few fine maps. The result is the same.

    Args:
        before: maps that go in.
        after: maps that come out.
        bias: whether every map that comes out has a bias.

    Example:
        >>> import torch
        >>> Doubling(16, 1)(torch.zeros(5, 16, 7, 7)).shape
        torch.Size([5, 1, 14, 14])
    """

    def __init__(self, before: int, after: int, *, bias: bool = True) -> None:
        super().__init__(before, after, 4, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the fine maps, [n, after, 2 h, 2 w]."""
        if self.out_channels > _FEW:
            return super().forward(x, output_size)
        kernels = self.weight[:, :, _TAPS][..., _TAPS].permute(1, 2, 4, 0, 3, 5).flatten(0, 2)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        parts = F.conv2d(x, kernels, bias, padding=1).unflatten(1, (self.out_channels, 2, 2))
        height, width = x.shape[-2:]
        rows = [torch.stack([parts[:, :, i, j, i : i + height, j : j + width] for j in (0, 1)], -1) for i in (0, 1)]
        return torch.stack(rows, 3).flatten(4, 5).flatten(2, 3)


def _residual(norm: nn.Module, block: nn.Module, h: Tensor) -> Tensor:
    out: Tensor = h + block(F.silu(norm(h)))
    return out
