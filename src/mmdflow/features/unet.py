"""The U-Net of diffusion models, from diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.features.base import FeatureNetwork, image_channels


class UNetFeatures(FeatureNetwork):
    """diffusers' `UNet2DModel` with sinusoidal time embedding and attention that can be differentiated twice.

    Args:
        event_shape: (channels, height, width).
        num_features: K.
        head: "flat", "squared_residual" or "mixed"; flat features are read off the spatial mean of output maps of their own.
        num_residuals: of the mixed head.
        channels: channels of each resolution, finest first; each divisible by `groups`.
        attention: for each resolution, whether it has self-attention.
        layers: residual blocks a resolution.
        groups: of group normalisation.
        num_classes: that an event may be said to be of; 0 for none.

    Raises:
        ImportError: if diffusers is not installed; says how to install it.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_features: int = 4,
        head: str = "squared_residual",
        num_residuals: int | None = None,
        channels: tuple[int, ...] | list[int] = (32, 64),
        attention: tuple[bool, ...] | list[bool] | None = None,
        layers: int = 1,
        groups: int = 8,
        num_classes: int = 0,
    ) -> None:
        super().__init__(event_shape, num_features, head, num_residuals, num_classes)
        try:
            from diffusers import UNet2DModel
            from diffusers.models.attention_processor import AttnProcessor
        except ImportError as error:
            raise ImportError("UNetFeatures needs diffusers: pip install 'mmdflow[images]'") from error
        self.channels = image_channels(self.event_shape, channels)
        self.attention = (False,) * len(self.channels) if attention is None else tuple(attention)
        if len(self.attention) != len(self.channels):
            raise InputError(
                f"attention has {len(self.attention)} entries: must have {len(self.channels)}, as channels"
            )
        self.layers, self.groups = _checks.count("layers", layers), _checks.count("groups", groups)
        if any(c % self.groups for c in self.channels):
            raise InputError(f"channels = {list(self.channels)}: each must be divisible by groups = {self.groups}")
        self.maps = self.num_residuals * self.event_shape[0]
        extra = self.channels[0] if self.num_flat else 0  # maps whose means the flat features are read off
        self.network = UNet2DModel(
            in_channels=self.event_shape[0],
            out_channels=self.maps + extra,
            block_out_channels=self.channels,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in self.attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(self.attention)),
            layers_per_block=self.layers,
            norm_num_groups=self.groups,
            attention_head_dim=min(8, *self.channels),
            time_embedding_type="positional",
            add_attention=any(self.attention),
            num_class_embeds=self.num_classes + 1 if self.num_classes else None,
        )
        for module in self.network.modules():  # fused attention has no double backward on the CPU
            if hasattr(module, "set_processor"):
                module.set_processor(AttnProcessor())
        self.read_out = nn.Linear(extra, self.num_flat) if self.num_flat else nn.Identity()

    def enable_checkpointing(self) -> None:
        """Let diffusers compute the activations of its blocks again in the backward pass."""
        self.network.enable_gradient_checkpointing()

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, in plain types."""
        return {
            **super().config(),
            "channels": list(self.channels),
            "attention": list(self.attention),
            "layers": self.layers,
            "groups": self.groups,
        }

    def hidden_modules(self) -> list[nn.Module]:
        """Return the middle, the resolutions on the way up after the coarsest, and the last normalisation."""
        return [self.network.mid_block, *self.network.up_blocks[1:], self.network.conv_norm_out]

    def read_outs(self) -> list[nn.Module]:
        """Return the last convolution, and what reads flat features off its further maps."""
        return [self.network.conv_out, *super().read_outs()]

    def heads(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return u, [n, num_residuals, *event], and the flat features, [n, num_flat]; None for what the head has none of."""
        maps = self.network(x, 1000 * t, labels, return_dict=False)[0]  # diffusers counts noise levels to 1000
        maps, extra = maps.tensor_split([self.maps], 1)
        residuals = maps.reshape(len(x), self.num_residuals, *self.event_shape) if self.num_residuals else None
        return residuals, self.read_out(extra.mean((2, 3))) if self.num_flat else None
