"""What a picture file shows, as bytes: upright, on a white ground, all of its range."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

#: Channels -> Pillow's mode.
MODES = {1: "L", 3: "RGB"}
#: What lies behind transparent pixels.
GROUND = "white"
#: Pillow's modes of 16-bit grey, and of numbers without a range of their own.
_SIXTEEN, _NUMBERS = ("I;16", "I;16L", "I;16B", "I;16N"), ("I", "F")
#: Where the range of numbers may end: a picture whose largest number is at most that is in [0, that].
_RANGES = (1.0, 255.0, 65535.0)


def opened(data: bytes, channels: int) -> Image.Image:
    """Return the picture that a file's bytes hold, `upright`.

    Bytes, because Pillow (13.0) maps uncompressed TIFF files of a path into memory by the size that they have once turned.
    """
    with Image.open(io.BytesIO(data)) as picture:
        return upright(picture, channels)


def upright(picture: Image.Image, channels: int) -> Image.Image:
    """Return a picture as a viewer shows it, in grey (channels = 1) or colour (3), 8 bits a channel.

    It is turned as its EXIF orientation says. Transparent pixels lie on white. 16-bit grey v becomes 255 v / 65535.
    Numbers without a range of their own (32-bit integers, floating) are taken in [0, 1], [0, 255] or [0, 65535], the first that
    holds them all; integers are never in [0, 1]. Colour profiles are not applied.

    Raises:
        ValueError: for numbers that are negative, NaN or beyond 65535, and for files of several pictures.
    """
    count = getattr(picture, "n_frames", 1)
    if count > 1 and picture.format != "MPO":  # phones put a preview or a depth map behind their photographs
        raise ValueError(f"holds {count} pictures: must be one")
    kind = picture.format
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in (*_SIXTEEN, *_NUMBERS):
        picture = _by_range(picture, sixteen=picture.mode in _SIXTEEN or (picture.mode == "I" and kind == "PNG"))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, GROUND), picture)
    return picture.convert(MODES[channels])


def squared(picture: Image.Image, size: int | None, crop: int | None = None) -> Image.Image:
    """Return a picture of `size` x `size` pixels: the centred square, resized (bicubic), where it has another size already.

    Args:
        picture: of any size.
        size: the side; the picture's own size where None.
        crop: side of the centred square; the shorter side where None.
    """
    if crop is not None or (size is not None and picture.size != (size, size)):
        side = min(*picture.size, crop or max(picture.size))
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return picture


def as_array(picture: Image.Image, channels: int) -> NDArray[np.uint8]:
    """Return the bytes of a picture of that many channels, [c, h, w]."""
    pixels = np.asarray(picture, np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if channels == 3 else pixels[None])


def _by_range(picture: Image.Image, *, sixteen: bool) -> Image.Image:
    """Return a picture of numbers as one of bytes; of 16 bits, if that is known."""
    numbers = np.asarray(picture, np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    if not (low >= 0 and high <= _RANGES[-1]):
        raise ValueError(f"holds numbers in [{low:g}, {high:g}]: must lie in [0, 1], [0, 255] or [0, 65535]")
    least = 2 if sixteen else 1 if picture.mode == "I" else 0
    top = next(top for top in _RANGES[least:] if high <= top)
    transparent = numbers == picture.info.get("transparency", -1)
    return Image.fromarray(np.rint(np.where(transparent, top, numbers) * (255 / top)).astype(np.uint8))
