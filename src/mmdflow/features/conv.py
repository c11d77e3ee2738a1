"""A small convolutional network for images, without attention."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.features.base import FeatureNetwork, LevelEmbedding, image_channels, regions, regions_of


class ConvFeatures(FeatureNetwork):
    """Residual blocks at the finest resolution and at each halving; the squared-residual head climbs back up with skips.

    Args:
        event_shape: (channels, height, width); height and width divisible by patch * 2^(len(channels) - 1).
        num_features: K.
        head: "flat", "squared_residual" or "mixed"; flat features are read off means of the coarsest maps: one
            mean a map for the flat head, those of a 4 x 4 grid for the mixed one.
        num_residuals: of the mixed head.
        channels: channels of each resolution, finest first.
        blocks: residual blocks a resolution.
        patch: side of the square of pixels that becomes one position of the finest maps; costs fall with its square.
        num_classes: that an event may be said to be of; 0 for none.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_features: int = 4,
        head: str = "squared_residual",
        num_residuals: int | None = None,
        channels: tuple[int, ...] | list[int] = (32, 64),
        blocks: int = 1,
        patch: int = 1,
        num_classes: int = 0,
    ) -> None:
        super().__init__(event_shape, num_features, head, num_residuals, num_classes)
        self.blocks, self.patch = _checks.count("blocks", blocks), _checks.count("patch", patch)
        self.channels = image_channels(self.event_shape, channels, self.patch)
        self.level = nn.Sequential(LevelEmbedding(32), nn.Linear(32, 64), nn.SiLU())
        self._new_classes(64)
        entries = self.event_shape[0] * self.patch**2
        self.stem = nn.Conv2d(entries, self.channels[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.ModuleList(_Block(before if i == 0 else after, after) for i in range(blocks))
            for before, after in zip((self.channels[0], *self.channels), self.channels, strict=False)
        )
        coarse, fine = self.channels[-1], self.channels[0]
        if self.head == "flat":
            self.read_out: nn.Module = nn.Linear(coarse, num_features)
            return
        below = list(reversed(self.channels))
        self.up = nn.ModuleList(_Block(a + b, b) for a, b in itertools.pairwise(below))
        self.read_out = nn.Conv2d(fine, self.num_residuals * entries, 3, padding=1)
        if self.num_flat:
            shrink = self.patch * 2 ** (len(self.channels) - 1)
            grid = regions_of([size // shrink for size in self.event_shape[1:]])
            self.read_flat = nn.Linear(coarse * math.prod(grid), self.num_flat)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, in plain types."""
        return {**super().config(), "channels": list(self.channels), "blocks": self.blocks, "patch": self.patch}

    def hidden_modules(self) -> list[nn.Module]:
        """Return the first block of every resolution after the finest, those on the way up, and the read-out."""
        coarser = [next(stage.children()) for stage in list(self.down)[1:]]
        return [*coarser, *([] if self.head == "flat" else self.up), self.read_out]

    def heads(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return u, [n, num_residuals, *event], and the flat features, [n, num_flat]; None for what the head has none of."""
        level = self._with_class(self.level(t), labels)
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        skips = []
        for i, stage in enumerate(self.down):
            h = F.avg_pool2d(h, 2) if i else h
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                h = self.checkpoint(block, h, level)
            skips.append(h)
        if self.head == "flat":
            return None, self.read_out(F.silu(h).mean((2, 3)))
        flat = self.read_flat(regions(F.silu(h))) if self.num_flat else None
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            joined = torch.cat([F.interpolate(h, scale_factor=2.0, mode="nearest"), skip], 1)
            h = self.checkpoint(block, joined, level)
        maps = F.pixel_shuffle(self.read_out(F.silu(h)), self.patch)
        maps = maps.view(len(x), self.num_residuals, *self.event_shape)
        return maps, flat


class _Block(nn.Module):
    """Two convolutions around a normalisation, to which level and class are added; around all a skip."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.norm = nn.GroupNorm(math.gcd(8, max(1, after // 4)), after)
        self.level = nn.Linear(64, after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.norm(self.first(F.silu(x))) + self.level(level)[:, :, None, None]
        return self.skip(x) + self.second(F.silu(h))
