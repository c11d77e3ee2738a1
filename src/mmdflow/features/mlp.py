"""A multilayer perceptron on flattened events."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.features.base import FeatureNetwork, LevelEmbedding


class MLPFeatures(FeatureNetwork):
    """SiLU layers on the flattened event beside the embedded noise level.

    Args:
        event_shape: the shape of an event.
        num_features: K.
        head: "flat" or "squared_residual".
        width: units a layer.
        depth: hidden layers, at least 1.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        num_features: int = 4,
        head: str = "squared_residual",
        width: int = 256,
        depth: int = 3,
    ) -> None:
        super().__init__(event_shape, num_features, head)
        self.width, self.depth = _checks.count("width", width), _checks.count("depth", depth)
        self.level = LevelEmbedding(32)
        sizes = [self.event_size + 32] + [width] * depth
        hidden = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), nn.SiLU())]
        self.network = nn.Sequential(*hidden, nn.Linear(width, self._output_size()))

    def _output_size(self) -> int:
        return self.num_features * (1 if self.head == "flat" else self.event_size)

    def config(self) -> dict[str, Any]:  # noqa: D102
        return {**super().config(), "width": self.width, "depth": self.depth}

    def outputs(self, x: Tensor, t: Tensor) -> Tensor:  # noqa: D102
        out = self.network(torch.cat([x.flatten(1), self.level(t)], 1))
        return out if self.head == "flat" else out.view(len(x), self.num_features, *self.event_shape)
