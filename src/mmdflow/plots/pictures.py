"""Pictures of samples: grids of images, scatter plots; and their files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmdflow._arrays import of_any_kind
from mmdflow._files import make_folder, new_file
from mmdflow._tensors import to_bytes
from mmdflow.errors import InputError
from mmdflow.plots.figures import row_of_axes, to_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Pixels that a sample is at least enlarged to.
_CELL = 48


@of_any_kind
def image_grid(images: Float[Tensor, "n c h w"], columns: int | None = None) -> Image.Image:
    """Return images in [-1, 1] side by side, enlarged to whole multiples of their pixels, on a grey ground."""
    n, channels, height, width = images.shape
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels: must be 1 or 3")
    columns = columns or math.ceil(math.sqrt(n))
    rows, scale, gap = math.ceil(n / columns), max(1, _CELL // max(height, width)), 2
    pixels = to_bytes(images).permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    h, w = height * scale + gap, width * scale + gap
    canvas = np.full((rows * h + gap, columns * w + gap, channels), 96, np.uint8)
    for i, picture in enumerate(pixels):
        y, x = i // columns * h + gap, i % columns * w + gap
        canvas[y : y + h - gap, x : x + w - gap] = picture
    return Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)


@of_any_kind
def above_each_other(upper: Float[Tensor, "n c h w"], lower: Float[Tensor, "n c h w"]) -> Image.Image:
    """Return two rows of images, each of `lower` under its fellow."""
    return image_grid(torch.cat([upper, lower]), columns=len(upper))


@of_any_kind
def trajectory_grid(frames: Float[Tensor, "S n c h w"], moments: int = 12) -> Image.Image:
    """Return a flow of images as one picture: a particle a row, from left to right at most `moments` of its steps.

    They are evenly spaced, the first and the last among them.
    """
    steps = torch.linspace(0, len(frames) - 1, min(moments, len(frames))).round().long()
    return image_grid(frames[steps].transpose(0, 1).flatten(0, 1), columns=len(steps))


@of_any_kind
def scatter(points: Float[Tensor, "n 2"], limit: float = 3.0) -> Image.Image:
    """Return a scatter plot of points in the plane, on [-limit, limit]^2."""
    figure, axes = row_of_axes(1, (5, 5))
    scatter_on(axes[0], points, limit)
    return to_image(figure)


def scatter_on(axes: Axes, points: Tensor, limit: float) -> None:
    """Scatter points in the plane on [-limit, limit]^2."""
    x, y = points.cpu().numpy().T
    axes.scatter(x, y, s=2, alpha=0.6, linewidths=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")


@of_any_kind
def picture(samples: Tensor) -> Image.Image:
    """Return the picture of samples: a grid of images, or a scatter plot in the plane."""
    if samples.ndim == 4:
        return image_grid(samples)
    if samples.ndim == 2 and samples.shape[1] == 2:
        return scatter(samples)
    raise InputError(f"samples have event shape {list(samples.shape[1:])}: pictures are made of [c, h, w] or [2]")


def save_picture(image: Image.Image, path: str | Path) -> None:
    """Save one picture, whole or not at all."""
    check_output(path)
    with new_file(path) as aside:
        image.save(aside)


@of_any_kind
def save_samples(samples: Tensor, path: str | Path) -> None:
    """Save the picture of samples."""
    save_picture(picture(samples), path)


def check_output(path: str | Path) -> None:
    """Raise InputError where no picture or animation can be written, before the work that it would show."""
    path = Path(path)
    writable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if path.suffix.lower() not in {*writable, ".mp4"}:
        raise InputError(f"{path}: not the ending of a picture or animation, such as .png, .gif or .mp4")
    if path.suffix.lower() == ".mp4":
        ffmpeg(path)
    make_folder(path.parent)


def ffmpeg(path: Path) -> Any:
    """Return imageio_ffmpeg, which writes .mp4; ImportError in one line where there is none."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError(
            f"{path}: .mp4 needs imageio-ffmpeg: pip install 'mmdflow[video]' (or choose .gif)"
        ) from error
    return imageio_ffmpeg


def is_animation(path: str | Path) -> bool:
    """Whether a file of that name shows a flow rather than a picture."""
    return Path(path).suffix.lower() in (".gif", ".mp4")
