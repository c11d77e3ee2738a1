"""Pictures decoded once, in parallel, into a file of bytes in the cache that is memory-mapped from then on."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow._files import cache_folder, new_file
from mmdflow.errors import InputError

#: Endings of files that are taken for pictures.
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
#: What to do with a picture that cannot be read.
CORRUPT = ("refuse", "skip")
#: What Pillow raises for damaged files.
_BROKEN = (OSError, EOFError, ValueError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError)
_MODES = {1: "L", 3: "RGB"}
_CHUNK = 256


@dataclass(frozen=True)
class Encoded:
    """Pictures that are yet to be decoded.

    Attributes:
        count: how many.
        open: the i-th one, as a path or as bytes.
        name: of the i-th one, for messages.
        identity: what changes whenever they do.
        labels: class indices, [count].
    """

    count: int
    open: Callable[[int], Path | bytes]
    name: Callable[[int], str]
    identity: str
    labels: Tensor | None = None

    @classmethod
    def files(cls, files: Sequence[Path], root: Path) -> Encoded:
        """Return the pictures of files; their names under `root`, sizes and times identify them."""
        digest = hashlib.sha256(str(root.resolve()).encode())
        for file in files:
            stat = file.stat()
            digest.update(f"{file.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return cls(len(files), files.__getitem__, lambda i: str(files[i]), digest.hexdigest())


def decoded(
    pictures: Encoded, *, size: int | None, crop: int | None, channels: int, corrupt: str, progress: bool
) -> tuple[NDArray[np.uint8], Tensor | None, int]:
    """Return pictures as bytes, [n, c, h, w], memory-mapped; their labels; and how many unreadable ones were skipped.

    Raises:
        InputError: for a picture that is unreadable (unless skipped), or of another shape than the first where `size` is None.
    """
    settings = f"{pictures.identity} size={size} crop={crop} channels={channels} corrupt={corrupt}"
    file = cache_folder() / "images" / f"{hashlib.sha256(settings.encode()).hexdigest()[:24]}.npy"
    kept_file = file.with_suffix(".kept.npy")
    if not (file.exists() and kept_file.exists()):
        kept = _write(pictures, file, size, crop, channels, corrupt, progress)
        with new_file(kept_file) as aside:
            np.save(aside, kept)
    try:
        pixels, kept = np.load(file, mmap_mode="r"), np.load(kept_file)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: damaged cache ({error}); remove it to decode the pictures again") from error
    labels = None if pictures.labels is None else pictures.labels[torch.from_numpy(kept)]
    return pixels, labels, pictures.count - len(kept)


def _write(
    pictures: Encoded, path: Path, size: int | None, crop: int | None, channels: int, corrupt: str, progress: bool
) -> NDArray[np.int64]:
    """Write the bytes of all readable pictures in their order; return which ones they are."""
    kept: list[int] = []
    shape: tuple[int, ...] | None = None

    def one(i: int) -> NDArray[np.uint8] | InputError:
        try:
            return _picture(pictures.open(i), size, crop, channels)
        except _BROKEN as error:
            reason = " ".join(str(error).split())[:120]
            return InputError(f"{pictures.name(i)}: not a readable picture ({reason}); corrupt = 'skip' leaves it out")

    with (
        new_file(path) as aside,
        aside.open("wb") as out,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=pictures.count, desc="decode", unit="image", disable=not progress) as bar,
    ):
        for chunk in _chunks(range(pictures.count), _CHUNK):  # bounds the memory: the pool's map takes all it is given
            for i, found in zip(chunk, pool.map(one, chunk), strict=True):
                bar.update()
                if isinstance(found, InputError):
                    if corrupt == "refuse":
                        raise found
                    continue
                if shape is None:
                    shape = found.shape
                    _write_header(out, pictures.count, shape)
                if found.shape != shape:
                    raise InputError(
                        f"{pictures.name(i)}: is {list(found.shape)}, and the first picture {list(shape)}: must agree; "
                        f"give a size to crop and resize to"
                    )
                out.write(found.tobytes())
                kept.append(i)
        if shape is None:
            raise InputError(f"{pictures.name(0)} and {pictures.count - 1} more: none is a readable picture")
        out.seek(0)
        _write_header(out, len(kept), shape)
    return np.array(kept, np.int64)


def _write_header(out: io.BufferedWriter, count: int, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file; NumPy pads it so that another count fits in its place."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(out, header)


def _picture(data: Path | bytes, size: int | None, crop: int | None, channels: int) -> NDArray[np.uint8]:
    """Return a picture as bytes, [c, h, w]: the centred square, resized, where it is not of that size already."""
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
        picture = opened.convert(_MODES[channels])
    if crop is not None or (size is not None and picture.size != (size, size)):
        side = min(*picture.size, crop or max(picture.size))
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture, np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if channels == 3 else pixels[None])


def _chunks(items: range, size: int) -> Iterator[range]:
    yield from (items[start : start + size] for start in range(0, len(items), size))
