"""MNIST as the sliced MMD flow's paper uses it: images in [0, 1], particles that start uniform in [0, 1]^d."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmdflow import _checks, plots
from mmdflow.data import load
from mmdflow.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def unit_images(name: str, count: int, generator: torch.Generator) -> Tensor:
    """Return random training images of a data set, [count, 1, h, w] in [0, 1] and float32."""
    train = load(name).train
    if _checks.count("num_particles", count) > len(train):
        raise InputError(f"num_particles = {count}: {name} has {len(train)} training images")
    return (train[torch.randperm(len(train), generator=generator)[:count]] + 1) / 2


def powers_of_two(num_steps: int) -> list[int]:
    """Return 0, 1, 2, 4, ... up to num_steps, which is always the last."""
    steps = [0] + [2**k for k in range(num_steps.bit_length()) if 2**k <= num_steps]
    return steps if steps[-1] == num_steps else [*steps, num_steps]


def show_grid(axes: Axes, images: Tensor, columns: int, title: str = "") -> None:
    """Show images in [0, 1] in a grid without ticks."""
    few_greys = (images.clamp(0, 1) * 11).round() / 11  # noise in 256 greys makes files of half a megabyte
    axes.imshow(plots.image_grid(2 * few_greys - 1, columns), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title)
