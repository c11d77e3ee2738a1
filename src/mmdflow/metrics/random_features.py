"""Features of an untrained network: a judge that no training, and no choice of settings, had a part in."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._arrays import of_any_kind
from mmdflow._tensors import digest_of
from mmdflow.errors import InputError
from mmdflow.metrics.moments import Moments
from mmdflow.types import ArrayLike

#: Raised whenever the network changes.
VERSION = 1
#: Features at most, so that a few hundred samples have a covariance of full rank.
MOST_FEATURES = 128
_WIDTH, _LEVELS, _GRID, _SLOPE = 32, 4, 2, 0.2
#: A feature whose deviation is below this share of the largest does not vary, and is not divided by it.
_CONSTANT = 1e-6


class RandomFeatures(nn.Module):
    r"""An untrained convolutional network at several resolutions, standardised by reference images.

    Level l is $h_l = \mathrm{lrelu}(W_l * h_{l-1})$ on maps of half the side of the level before (averages of 2 x 2), with W_l
    normal of variance $2 / ((1 + 0.2^2) \cdot \mathrm{fan\ in})$ (He et al. 2015), of a fixed seed. A random projection takes the
    32 maps of each level to 128 / (4 levels); their means over a 2 x 2 grid are the features, at most 128. Each is divided by its
    deviation over the reference images, after its mean is taken off: so all levels count alike.

    That random convolutions make a fair judge of samples is found in Naeem et al. 2020, section 4.3.

    Args:
        event_shape: (channels, height, width) of the images.

    Raises:
        InputError: for events that are no images of at least 2 x 2.

    Example:
        >>> import torch
        >>> x = torch.rand(500, 1, 8, 8) * 2 - 1
        >>> random = RandomFeatures.of([x])
        >>> features = random.features(x)
        >>> features.shape, bool(features.std(0).allclose(torch.ones(120), atol=1e-3))
        (torch.Size([500, 120]), True)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(event_shape) != 3 or min(event_shape[1:]) < _GRID:
            raise InputError(
                f"features = 'random' of events {list(event_shape)}: must be of images, [c, h, w] with sides of at least {_GRID}"
            )
        side, levels = min(event_shape[1:]), 1
        while levels < _LEVELS and side >> levels >= _GRID:
            levels += 1
        maps = MOST_FEATURES // (_GRID**2 * levels)
        generator = torch.Generator().manual_seed(0)
        self.convolutions, self.projections = nn.ParameterList(), nn.ParameterList()
        for level in range(levels):
            channels = _WIDTH if level else event_shape[0]
            gain = (2 / (1 + _SLOPE**2) / (9 * channels)) ** 0.5
            self.convolutions.append(gain * torch.randn(_WIDTH, channels, 3, 3, generator=generator))
            self.projections.append(torch.randn(maps, _WIDTH, 1, 1, generator=generator) / _WIDTH**0.5)
        size = maps * _GRID**2 * levels
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.requires_grad_(False)

    @classmethod
    def of(cls, batches: Iterable[Tensor | ArrayLike]) -> RandomFeatures:
        """Return the features standardised by reference images in [-1, 1], which come in batches.

        Raises:
            InputError: if there is no batch, or its events are no images.
        """
        network: RandomFeatures | None = None
        moments: Moments | None = None
        for x in (_checks.points("batches", batch) for batch in batches):
            network = cls(tuple(x.shape[1:])) if network is None else network
            of_batch = Moments.of(network.features(x))
            moments = of_batch if moments is None else moments.merged(of_batch)
        if network is None or moments is None:
            raise InputError("batches is empty: must hold at least one")
        std = moments.covariance.diagonal().sqrt()
        network.mean.copy_(moments.mean)
        network.std.copy_(torch.where(std > _CONSTANT * std.max(), std, 1.0))
        return network

    @property
    def name(self) -> str:
        """How reports name it."""
        says = f"{len(self.convolutions)} levels, {len(self.mean)} features, untrained"
        return f"mmdflow random network v{VERSION} {digest_of(self.state_dict().values())} ({says})"

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n K"]:
        """Return the standardised features."""
        means, maps = [], x
        for level, (weight, projection) in enumerate(zip(self.convolutions, self.projections, strict=True)):
            if level:
                maps = F.avg_pool2d(maps, 2)
            maps = F.leaky_relu(F.conv2d(maps, weight, padding=1), _SLOPE)
            means.append(F.conv2d(F.adaptive_avg_pool2d(maps, _GRID), projection).flatten(1))
        return (torch.cat(means, 1) - self.mean) / self.std

    @of_any_kind
    @torch.no_grad()
    def features(self, x: Float[Tensor, "n c h w"], *, block: int = 1024) -> Float[Tensor, "n K"]:
        """Return the features of images in [-1, 1].

        Raises:
            InputError: for images of other channels.
        """
        channels = self.convolutions[0].shape[1]
        if x.shape[1] != channels:
            raise InputError(f"images have {x.shape[1]} channels: {self.name} needs {channels}")
        return torch.cat([self(rows) for rows in x.to(self.mean.dtype).split(block)])

    def probabilities(self, features: Float[Tensor, "n K"]) -> None:
        """Return None: there are no classes."""
        return
