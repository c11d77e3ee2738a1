"""Images from picture files, and samples of either kind from one path."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow._files import reading
from mmdflow.data.pixels import MODES, as_array, opened, squared
from mmdflow.data.points import is_points_file, read_points
from mmdflow.errors import InputError


def read_images(path: str | Path, channels: int, size: int | None = None) -> Float[Tensor, "n c h w"]:
    """Read a picture, or all pictures of a folder in the order of their names, as images in [-1, 1].

    They are turned as their EXIF orientation says, transparent pixels lie on white, and 16-bit and floating pictures are taken
    in the whole of their range (`mmdflow.data.pixels.upright`).

    Args:
        path: a picture of any kind that Pillow reads, or a folder of pictures of one size; other files in it are refused.
        channels: 1 (grey) or 3 (colour).
        size: side of the images: of pictures of another size the centred square is resized, as `images` does. By default they
            are as they are.

    Raises:
        InputError: for what is missing, no picture, or of another size than the first.
    """
    if channels not in MODES:
        raise InputError(f"channels = {channels!r}: pictures have 1 or 3")
    path = Path(path)
    files = sorted(f for f in path.iterdir() if not f.name.startswith(".")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: holds no picture")
    images = [_image(file, channels, size) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            shapes = [list(x.shape[1:]) for x in (image, images[0])]
            raise InputError(f"{file}: is {shapes[0]} pixels: must be {shapes[1]}, as {files[0].name} is")
    return torch.stack(images)


def read_samples(path: str | Path, channels: int, size: int | None = None) -> Float[Tensor, "n *event"]:
    """Read samples from a file of points (see `read_points`), a picture or a folder of pictures (see `read_images`)."""
    return read_points(path) if is_points_file(path) else read_images(path, channels, size)


def _image(file: Path, channels: int, size: int | None) -> Tensor:
    with reading(file, "not a readable picture"):
        pixels = as_array(squared(opened(file.read_bytes(), channels), size), channels)
    return torch.from_numpy(pixels).float() / 127.5 - 1
