"""A residual multilayer perceptron on flattened events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.features.base import FeatureNetwork, LevelEmbedding


class MLPFeatures(FeatureNetwork):
    """Residual SiLU blocks on the flattened event, with the embedded noise level, and class, added inside every block.

    Args:
        event_shape: the shape of an event.
        num_features: K.
        head: "flat", "squared_residual" or "mixed"; flat features are read off the last hidden layer.
        num_residuals: of the mixed head.
        width: units a layer.
        depth: residual blocks of two layers, at least 1.
        fourier: frequencies of sines and cosines of every entry that stand beside the event, geometric from pi to 8 pi;
            0 for none. For events of few dimensions, whose detail a plain perceptron does not resolve.
        num_classes: that an event may be said to be of; 0 for none.
    """

    frequencies: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        num_features: int = 4,
        head: str = "squared_residual",
        num_residuals: int | None = None,
        width: int = 256,
        depth: int = 2,
        fourier: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__(event_shape, num_features, head, num_residuals, num_classes)
        self.width, self.depth = _checks.count("width", width), _checks.count("depth", depth)
        self.embedding = LevelEmbedding(32)
        self.level = nn.Linear(32, width * (depth + 1))
        self._new_classes(width * (depth + 1))
        self.fourier = _checks.count("fourier", fourier, 0)
        self.register_buffer("frequencies", math.pi * 8 ** torch.linspace(0, 1, fourier), persistent=False)
        self.stem = nn.Linear(self.event_size * (1 + 2 * fourier), width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.read_out = nn.Linear(width, self.num_flat + self.num_residuals * self.event_size)
        with torch.no_grad():
            for layer in self.second:  # blocks start near the identity
                assert isinstance(layer, nn.Linear)
                layer.weight.mul_(0.3)
                layer.bias.zero_()

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, in plain types."""
        return {**super().config(), "width": self.width, "depth": self.depth, "fourier": self.fourier}

    def rescale_outputs(self, factor: float, shift: Tensor) -> None:
        """Let every event-shaped output u be factor u + shift from now on."""
        weight, bias = (getattr(self.read_out, name)[self.num_flat :] for name in ("weight", "bias"))
        with torch.no_grad():
            weight.mul_(factor)
            bias.mul_(factor).add_(shift.flatten().repeat(self.num_residuals))

    def hidden_modules(self) -> list[nn.Module]:
        """Return the blocks after the first, and the read-out."""
        return [*self.first[1:], self.read_out]

    def heads(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return u, [n, num_residuals, *event], and the flat features, [n, num_flat]; None for what the head has none of."""
        level = self._with_class(self.level(self.embedding(t)), labels)
        at_stem, *at_blocks = level.chunk(self.depth + 1, 1)
        h = x.flatten(1)
        if self.fourier:
            angles = (h.unsqueeze(2) * self.frequencies).flatten(1)
            h = torch.cat([h, angles.sin(), angles.cos()], 1)
        h = self.stem(h) + at_stem
        for first, second, at_block in zip(self.first, self.second, at_blocks, strict=True):
            h = self.checkpoint(partial(_residual, first, second), h, at_block)
        flat, maps = self.read_out(F.silu(h)).split([self.num_flat, self.num_residuals * self.event_size], 1)
        maps = maps.reshape(len(x), self.num_residuals, *self.event_shape) if self.num_residuals else None
        return maps, flat if self.num_flat else None


def _residual(first: nn.Module, second: nn.Module, h: Tensor, level: Tensor) -> Tensor:
    out: Tensor = h + second(F.silu(first(h) + level))
    return out
