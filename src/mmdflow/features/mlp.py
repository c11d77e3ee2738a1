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
    """Residual SiLU blocks on the flattened event, with the embedded noise level added inside every block.

    Args:
        event_shape: the shape of an event.
        num_features: K.
        head: "flat" or "squared_residual".
        width: units a layer.
        depth: residual blocks of two layers, at least 1.
        fourier: frequencies of sines and cosines of every entry that stand beside the event, geometric from pi to 8 pi;
            0 for none. For events of few dimensions, whose detail a plain perceptron does not resolve.
    """

    frequencies: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        num_features: int = 4,
        head: str = "squared_residual",
        gradient: str = "full",
        width: int = 256,
        depth: int = 2,
        fourier: int = 0,
    ) -> None:
        super().__init__(event_shape, num_features, head, gradient)
        self.width, self.depth = _checks.count("width", width), _checks.count("depth", depth)
        self.embedding = LevelEmbedding(32)
        self.level = nn.Linear(32, width * (depth + 1))
        self.fourier = _checks.count("fourier", fourier, 0)
        self.register_buffer("frequencies", math.pi * 8 ** torch.linspace(0, 1, fourier), persistent=False)
        self.stem = nn.Linear(self.event_size * (1 + 2 * fourier), width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        outputs = num_features * (1 if self.head == "flat" else self.event_size)
        self.read_out = nn.Linear(width, outputs)
        with torch.no_grad():
            for layer in self.second:  # blocks start near the identity
                assert isinstance(layer, nn.Linear)
                layer.weight.mul_(0.3)
                layer.bias.zero_()

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, in plain types."""
        return {**super().config(), "width": self.width, "depth": self.depth, "fourier": self.fourier}

    def outputs(self, x: Tensor, t: Tensor) -> Tensor:
        """Return [n, K] for the flat head, [n, K, *event] for the squared residual."""
        at_stem, *at_blocks = self.level(self.embedding(t)).chunk(self.depth + 1, 1)
        h = x.flatten(1)
        if self.fourier:
            angles = (h.unsqueeze(2) * self.frequencies).flatten(1)
            h = torch.cat([h, angles.sin(), angles.cos()], 1)
        h = self.stem(h) + at_stem
        for first, second, level in zip(self.first, self.second, at_blocks, strict=True):
            h = self.checkpoint(partial(_residual, first, second), h, level)
        out = self.read_out(F.silu(h))
        return out if self.head == "flat" else out.view(len(x), self.num_features, *self.event_shape)


def _residual(first: nn.Module, second: nn.Module, h: Tensor, level: Tensor) -> Tensor:
    out: Tensor = h + second(F.silu(first(h) + level))
    return out
