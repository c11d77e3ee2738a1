"""Animations of a flow, and what notebooks show."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmdflow import _arrays, _checks
from mmdflow._arrays import of_any_kind
from mmdflow._files import new_file
from mmdflow.errors import InputError
from mmdflow.plots.figures import row_of_axes, to_image
from mmdflow.plots.pictures import ffmpeg, image_grid, picture
from mmdflow.types import ArrayLike

if TYPE_CHECKING:
    pass


@of_any_kind
def save_animation(frames: Float[Tensor, "S n *event"], path: str | Path, *, seconds: float = 4.0) -> None:
    """Save a flow as .gif or .mp4; the last frame stays for a second and a half.

    Raises:
        InputError: for another file ending.
        ImportError: for .mp4 without imageio-ffmpeg.
    """
    save_pictures([picture(frame) for frame in frames], path, seconds=seconds)


def save_pictures(pictures: Sequence[Image.Image], path: str | Path, *, seconds: float = 4.0) -> None:
    """Save pictures of one size as an animation, .gif or .mp4, as `save_animation` does."""
    path = Path(path)
    pause = max(20, round(1000 * seconds / len(pictures)))
    if path.suffix.lower() == ".gif":
        with new_file(path) as aside:
            _save_gif(pictures, pause, aside)
    elif path.suffix.lower() == ".mp4":
        _save_mp4([*pictures, *[pictures[-1]] * round(1500 / pause)], path, 1000 / pause)
    else:
        raise InputError(f"{path}: animations end in .gif or .mp4")


def _save_gif(pictures: Sequence[Image.Image], pause: int, file: Path | io.BytesIO) -> None:
    durations = [pause] * (len(pictures) - 1) + [1500]
    pictures[0].save(file, "GIF", save_all=True, append_images=list(pictures[1:]), duration=durations, loop=0)


def _save_mp4(pictures: list[Image.Image], path: Path, rate: float) -> None:
    arrays = [np.asarray(p.convert("RGB")) for p in pictures]
    height, width = (16 * math.ceil(n / 16) for n in arrays[0].shape[:2])  # what codecs want
    with new_file(path) as aside:
        writer = ffmpeg(path).write_frames(str(aside), (width, height), fps=rate, quality=8, macro_block_size=16)
        writer.send(None)
        for array in arrays:
            padding = [(0, height - array.shape[0]), (0, width - array.shape[1]), (0, 0)]
            writer.send(np.ascontiguousarray(np.pad(array, padding, mode="edge")))
        writer.close()


class Animation:
    """Pictures of one size that notebooks show as an animation.

    Args:
        pictures: in their order; the last one stays for a second and a half.
        seconds: that they take.
    """

    def __init__(self, pictures: Sequence[Image.Image], seconds: float = 4.0) -> None:
        self.pictures, self.seconds = list(pictures), seconds

    def save(self, path: str | Path) -> Path:
        """Save it as .gif or .mp4; return the path."""
        save_pictures(self.pictures, path, seconds=self.seconds)
        return Path(path)

    def __repr__(self) -> str:
        return f"Animation({len(self.pictures)} pictures, {self.seconds:g} s)"

    def _repr_html_(self) -> str:
        data = io.BytesIO()
        _save_gif(self.pictures, max(20, round(1000 * self.seconds / len(self.pictures))), data)
        return _img("gif", data)


def html(text: str, draw_picture: Callable[[], Image.Image]) -> str:
    """Return a text over a picture as HTML; the text alone where nothing can be drawn."""
    shown = f"<pre>{escape(text)}</pre>"
    try:
        image = draw_picture()
    except (ImportError, InputError):
        return shown
    data = io.BytesIO()
    image.save(data, "PNG")
    return shown + _img("png", data)


def _img(kind: str, data: io.BytesIO) -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}">'


def flow_pictures(trajectory: ArrayLike, steps: ArrayLike, target: ArrayLike | None = None) -> list[Image.Image]:
    """Return a picture of each recorded step of a flow: arrays of any kind, as a `FlowResult` holds them."""
    frames = _arrays.tensor("trajectory", trajectory)
    y = None if target is None else _checks.points("target", target, frames.shape[2:])
    return particle_pictures(frames, y, [f"step {int(step)}" for step in steps])


def particle_pictures(
    frames: Float[Tensor, "S n *event"] | ArrayLike,
    target: Float[Tensor, "m *event"] | ArrayLike | None,
    titles: Sequence[str],
) -> list[Image.Image]:
    """Return a picture of particles over the target for each frame, all on the same axes; of particles alone without one.

    Points in the plane are scattered, on a line they are histograms, and those of more dimensions are shown on the target's
    first two principal axes; images are grids without the target.
    """
    frames = _arrays.tensor("frames", frames)
    target = None if target is None else _arrays.tensor("target", target)
    if frames.ndim == 5 and frames.shape[2] in (1, 3):
        return [image_grid(frame[:64]) for frame in frames]
    reference = frames[-1] if target is None else target
    shown, y, names = _in_the_plane(frames.reshape(*frames.shape[:2], -1), reference.reshape(len(reference), -1))
    everything = torch.cat([shown[0], shown[-1], y])
    low, high = everything.min(0).values, everything.max(0).values
    centre, reach = (low + high) / 2, float((high - low).max().clamp_min(1e-6)) * 0.54
    over = None if target is None else y
    return [_particles(frame, over, title, centre, reach, names) for frame, title in zip(shown, titles, strict=True)]


def _in_the_plane(frames: Tensor, target: Tensor) -> tuple[Tensor, Tensor, tuple[str, str] | None]:
    frames, target = frames.cpu().double(), target.cpu().double()
    if target.shape[1] <= 2:
        return frames, target, None
    mean = target.mean(0)
    _, _, axes = torch.linalg.svd(target - mean, full_matrices=False)
    axes = axes[:2] if len(axes) > 1 else torch.eye(2, target.shape[1], dtype=target.dtype)
    return (frames - mean) @ axes.T, (target - mean) @ axes.T, ("first principal axis", "second principal axis")


def _particles(
    x: Tensor, y: Tensor | None, title: str, centre: Tensor, reach: float, names: tuple[str, str] | None
) -> Image.Image:
    figure, (axes,) = row_of_axes(1, (5.0, 5.2))
    axes.set_title(title, fontsize=10)
    if x.shape[1] == 1:
        edges = np.linspace(float(centre) - reach, float(centre) + reach, 61).tolist()
        if y is not None:
            axes.hist(y[:, 0].numpy(), bins=edges, density=True, color="0.8", label="target")
        axes.hist(x[:, 0].numpy(), bins=edges, density=True, histtype="step", color="C0", label="particles")
        axes.legend(frameon=False, loc="upper right")
        return to_image(figure)
    size = max(1.0, min(16.0, 4000 / len(x)))
    if y is not None:
        axes.scatter(y[:, 0].numpy(), y[:, 1].numpy(), s=size, color="0.8", linewidths=0)
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=size, color="C0", alpha=0.7, linewidths=0)
    axes.set(xlim=(float(centre[0]) - reach, float(centre[0]) + reach), aspect="equal")
    axes.set(ylim=(float(centre[1]) - reach, float(centre[1]) + reach))
    if names is not None:
        axes.set(xlabel=names[0], ylabel=names[1])
    return to_image(figure)
