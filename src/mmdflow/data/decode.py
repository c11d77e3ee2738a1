"""Pictures decoded once, in parallel, into a file of bytes in the cache that is memory-mapped from then on."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow._files import cache_folder, new_file
from mmdflow.data.pixels import as_array, opened, squared
from mmdflow.errors import InputError, MissingPartError, reason

log = logging.getLogger(__name__)

#: Endings of files that are taken for pictures.
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
#: What to do with a picture that cannot be read.
CORRUPT = ("refuse", "skip")
#: Changes whenever the same files give other bytes.
_RULES = "upright, on white, of all their range"
_CHUNK = 256


#: A picture that is yet to be decoded: what reads its bytes, and its class index where it has one.
Picture = tuple[Callable[[], bytes], int | None]


@dataclass(frozen=True)
class Opened:
    """Pictures that are being read.

    Attributes:
        count: how many there are, where that is known.
        rows: yields them.
        revision: see `Decoded`.
    """

    count: int | None
    rows: Iterator[Picture]
    revision: str = ""


@dataclass(frozen=True)
class Decoded:
    """Pictures as an array.

    Attributes:
        pixels: [n, c, h, w]; of decoded pictures bytes, memory-mapped.
        labels: class indices, [n], where all have one.
        skipped: unreadable pictures that were left out.
        revision: of the repository that they came from, where it is known.
        classes: the names of the classes 0, 1, ..., where they have names.
    """

    pixels: NDArray[np.generic]
    labels: Tensor | None
    skipped: int = 0
    revision: str = ""
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """Pictures that are yet to be decoded.

    Attributes:
        identity: what changes whenever they do.
        name: of the i-th one, for messages.
        open: called only if they are not in the cache.
    """

    identity: str
    name: Callable[[int], str]
    open: Callable[[], Opened]

    @classmethod
    def files(cls, files: Sequence[Path], root: Path, labels: Sequence[int] | None = None) -> Encoded:
        """Return the pictures of files, and their class indices."""
        known = [None] * len(files) if labels is None else labels
        return cls(
            files_identity(files, root) + ("" if labels is None else f" {labels}"),
            lambda i: str(files[i]),
            lambda: Opened(len(files), ((file.read_bytes, label) for file, label in zip(files, known, strict=True))),
        )


def files_identity(files: Sequence[Path], root: Path) -> str:
    """Return a hash of the files' names under `root`, their sizes and times."""
    digest = hashlib.sha256(str(root.resolve()).encode())
    for file in files:
        stat = file.stat()
        digest.update(f"{file.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def decoded(
    pictures: Encoded, *, size: int | None, crop: int | None, channels: int, corrupt: str, progress: bool
) -> Decoded:
    """Return pictures as bytes of one shape.

    They come from the cache where it has them; a damaged file there gives a warning and is made again. That a source has no
    such part is kept there, too.

    Raises:
        MissingPartError: if the source has none.
        InputError: for a picture that is unreadable (unless skipped), or of another shape than the first where `size` is None.
    """
    settings = f"{pictures.identity} size={size} crop={crop} channels={channels} corrupt={corrupt} {_RULES}"
    file = cache_folder() / "images" / f"{hashlib.sha256(settings.encode()).hexdigest()[:24]}.npy"
    rows_file, missing_file = file.with_suffix(".rows.npz"), file.with_suffix(".missing")
    if missing_file.exists():
        raise MissingPartError(missing_file.read_text())
    decoded = _cached(file, rows_file)
    if decoded is None:
        try:
            labels, skipped, revision = _write(pictures, file, size, crop, channels, corrupt, progress)
        except MissingPartError as error:  # only a source that is asked for its parts at last: the hub
            with new_file(missing_file) as aside:
                aside.write_text(str(error))
            raise
        with new_file(rows_file) as aside:
            np.savez(aside, labels=labels, skipped=skipped, revision=revision)
        decoded = _cached(file, rows_file)
    if decoded is None:
        raise InputError(f"{file}: cannot be read back")
    return decoded


def _cached(file: Path, rows_file: Path) -> Decoded | None:
    """Return what the cache holds, or None; says when it is damaged."""
    try:
        pixels = np.load(file, mmap_mode="r")
        with np.load(rows_file) as rows:
            labels, skipped = torch.from_numpy(rows["labels"]), int(rows["skipped"])
            revision = str(rows["revision"]) if "revision" in rows else ""  # older caches have none
    except FileNotFoundError:
        return None
    except Exception as error:  # of damage there are many kinds
        log.warning("cached images %s are damaged (%s): decoded again", file, type(error).__name__)
        return None
    return Decoded(pixels, labels if len(labels) else None, skipped, revision)


def _write(
    pictures: Encoded, path: Path, size: int | None, crop: int | None, channels: int, corrupt: str, progress: bool
) -> tuple[NDArray[np.int64], int, str]:
    """Write the bytes of all readable pictures in order; return labels, if all have one, how many were skipped, the revision."""
    labels: list[int | None] = []
    seen = 0
    shape: tuple[int, ...] | None = None

    def one(i: int, read: Callable[[], bytes]) -> NDArray[np.uint8] | InputError:
        try:
            return _picture(read(), size, crop, channels)
        except InputError:
            raise
        except Exception as error:  # Pillow's readers raise many kinds
            return InputError(
                f"{pictures.name(i)}: not a readable picture ({reason(error)}); corrupt = 'skip' leaves it out"
            )

    source = pictures.open()
    with (
        new_file(path) as aside,
        aside.open("wb") as out,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=source.count, desc="decode", unit="image", disable=not progress) as bar,
    ):
        while chunk := list(islice(source.rows, _CHUNK)):  # bounds the memory: the pool's map takes all it is given
            numbers = range(seen, seen + len(chunk))
            images = pool.map(one, numbers, (read for read, _ in chunk))
            for i, (_, label), image in zip(numbers, chunk, images, strict=True):
                bar.update()
                if isinstance(image, InputError):
                    if corrupt == "refuse":
                        raise image
                    continue
                if shape is None:
                    shape = image.shape
                    _write_header(out, 0, shape)
                if image.shape != shape:
                    raise InputError(
                        f"{pictures.name(i)}: is {list(image.shape)}, and the first picture {list(shape)}: must agree; "
                        f"a recipe's data.size crops and resizes them; elsewhere give pictures of one size"
                    )
                out.write(image.tobytes())
                labels.append(label)
            seen += len(chunk)
        if shape is None:
            raise InputError(f"{pictures.name(0)} and {seen - 1} more: none is a readable picture")
        out.seek(0)
        _write_header(out, len(labels), shape)
    known = [label for label in labels if label is not None]
    return np.array(known if len(known) == len(labels) else [], np.int64), seen - len(labels), source.revision


def _write_header(out: io.BufferedWriter, count: int, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file; NumPy pads it so that another count fits in its place."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(out, header)


def _picture(data: bytes, size: int | None, crop: int | None, channels: int) -> NDArray[np.uint8]:
    """Return a picture as bytes, [c, h, w]: the centred square, resized, where it is not of that size already."""
    return as_array(squared(opened(data, channels), size, crop), channels)
