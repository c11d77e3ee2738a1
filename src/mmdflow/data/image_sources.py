"""One way to open a data set of images, by name or by path."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmdflow import _checks
from mmdflow._files import reading
from mmdflow.data.cifar import is_cifar, read_cifar
from mmdflow.data.decode import CORRUPT, PICTURES, Decoded, Encoded, decoded
from mmdflow.data.image_set import ImageSet
from mmdflow.data.tables import HUB, hub_pictures, is_table, table_pictures
from mmdflow.errors import InputError, MissingPartError

log = logging.getLogger(__name__)

#: Variable that names the folder in which data sets lie, each in a folder of its name.
DATA_VARIABLE = "MMDFLOW_DATA"
#: Parts of a data set, and the names of folders or files that hold them.
SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}


@dataclass(frozen=True)
class Named:
    """A data set known by name: its size, what is cut out of larger images, and what to put where."""

    size: int
    crop: int | None
    wanted: str


NAMED = {
    "cifar10": Named(32, None, "the binary version's data_batch_1.bin ... data_batch_5.bin and test_batch.bin"),
    "celeba64": Named(
        64, 140, "img_align_celeba/*.jpg and list_eval_partition.txt, or folders train/ and test/ of images"
    ),
    "church64": Named(64, None, "folders train/ and test/ (or val/) of images exported from church_outdoor"),
}


def images(
    name_or_path: str | Path,
    split: str = "train",
    size: int | None = None,
    *,
    channels: int = 3,
    crop: int | None = None,
    flip: bool = False,
    corrupt: str = "refuse",
    progress: bool = False,
) -> ImageSet:
    """Return a data set of images.

    It may be: a folder of pictures (sorted by path, sub-folders included); CIFAR-10's binary batches; an array in a .npy or
    .npz file (bytes, [n, h, w], [n, h, w, c] or [n, c, h, w]; of an .npz `images`, and `labels` where there are any); parquet
    files or a saved Hugging Face data set; a data set of the hub with one column of images, hub:OWNER/NAME, with
    @CONFIG and #REVISION after it where wanted, which is streamed (the last three with `datasets` installed). In a folder the
    parts are folders or files named train and test (or val); a file, or a folder without such names, is all training data.

    Pictures are turned as their EXIF orientation says, transparent pixels lie on white, and 16-bit and floating pictures are
    taken in the whole of their range (`mmdflow.data.pixels.upright`). Hidden files and folders are passed over, and files in
    the folder that are no pictures are counted in a warning. A file of several pictures counts as unreadable.

    Where all pictures of a folder, or of its part, lie in sub-folders, and there are two or more of these, they are classes:
    their names in order are the classes 0, 1, ....

    Pictures larger or smaller than `size` are cropped to the centred square, then resized (bicubic, antialiased), once: the
    bytes lie in the cache (MMDFLOW_CACHE) from then on and are memory-mapped. Arrays are not resized.

    Args:
        name_or_path: cifar10, celeba64 or church64 (folders of that name where MMDFLOW_DATA points), a path, or hub:OWNER/NAME.
        split: train or test.
        size: side of the images; as they are when None. The named sets have theirs.
        channels: 1 for grey, 3 for colour; pictures are converted.
        crop: side of the centred square, at most the shorter side; the shorter side when None. celeba64 has 140.
        flip: whether to hold mirror images too, see `ImageSet`.
        corrupt: "refuse" an unreadable picture by its name, or "skip" and count it.
        progress: show a bar while pictures are decoded.

    Raises:
        MissingPartError: if the source has no such part.
        InputError: if nothing is there, a picture is unreadable, shapes do not fit, or the hub cannot be reached.
        ImportError: without the package `datasets`, where it is needed.
    """
    _checks.choice("split", split, SPLITS)
    _checks.choice("corrupt", corrupt, CORRUPT)
    if channels not in (1, 3):
        raise InputError(f"channels = {channels!r}: must be 1 or 3")
    for field, value in (("size", size), ("crop", crop)):
        if value is not None:
            _checks.count(field, value)
    name, path = str(name_or_path), Path(name_or_path)
    if name in NAMED:
        known = NAMED[name]
        path = named_folder(name)
        size, crop = size or known.size, crop or known.crop

    def decode(pictures: Encoded) -> Decoded:
        return decoded(pictures, size=size, crop=crop, channels=channels, corrupt=corrupt, progress=progress)

    on_hub = name.startswith(HUB)
    read = decode(hub_pictures(name, split, SPLITS)) if on_hub else _read(path, split, decode, name not in NAMED)
    where = f"{name} at {read.revision}" if read.revision else str(path)
    images = ImageSet(
        read.pixels,
        read.labels,
        source=f"{where} ({split})",
        flip=flip,
        skipped=read.skipped,
        classes=read.classes,
    )
    wanted = (channels, size or images.event_shape[1], size or images.event_shape[2])
    if images.event_shape != wanted:
        raise InputError(
            f"{images.source}: holds images {list(images.event_shape)}: must be {list(wanted)}; arrays are not resized"
        )
    return images


def named_folder(name: str) -> Path:
    """Return the folder of a named data set.

    Raises:
        InputError: if there is none; says what to put where.
    """
    root = os.environ.get(DATA_VARIABLE)
    where = Path(root) / name if root else Path("$" + DATA_VARIABLE) / name
    if root is None or not where.is_dir():
        unset = f" ({DATA_VARIABLE} is not set)" if root is None else ""
        raise InputError(f"data = {name!r}: no folder {where}{unset}; put there {NAMED[name].wanted}")
    return where


def _read(path: Path, split: str, decode: Callable[[Encoded], Decoded], labelled: bool) -> Decoded:
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        if split != "train":
            raise MissingPartError(
                f"{path}: is one file, all training data; split = {split!r} needs a folder of train and test"
            )
        return Decoded(*_array(path))
    if is_table(path):
        return decode(table_pictures(path, split, SPLITS))
    if not path.is_dir():
        others = f"nor one of {', '.join(NAMED)}, nor {HUB}OWNER/NAME; a recipe's --data=FOLDER says where images are"
        raise InputError(f"{path}: no such folder, .npy, .npz or .parquet file, {others}")
    if is_cifar(path):
        return Decoded(*read_cifar(path, split))
    part = _part(path, split)
    if part.is_file():
        return Decoded(*_array(part))
    celeba = (path / "list_eval_partition.txt").is_file()
    files = _picture_files(part, warn=not celeba)
    if celeba:
        files = _celeba(files, path / "list_eval_partition.txt", split)
    if not files:
        raise InputError(f"{part}: holds no pictures ({', '.join(sorted(PICTURES))}) for split = {split!r}")
    classes = _classes(files, path, part) if labelled and not celeba else ()
    if not classes:
        return decode(Encoded.files(files, part))
    labels = [classes.index(file.relative_to(part).parts[0]) for file in files]
    return replace(decode(Encoded.files(files, part, labels)), classes=classes)


def _classes(files: list[Path], path: Path, part: Path) -> tuple[str, ...]:
    """Return the names of the sub-folders that are classes, those of the other part of the folder too; none where there are none.

    Names that are numbers are sorted as numbers.
    """
    own = {file.relative_to(part).parts[:-1][:1] for file in files}
    if () in own and len(own) > 1:
        beside = sum(file.parent == part for file in files)
        log.warning("%s: pictures beside its sub-folders (%d): these are not taken for classes", part, beside)
    if () in own or len(own) < 2:
        return ()
    names = {name for (name,) in own}
    others = [path / name for names_of in SPLITS.values() for name in names_of] if part != path else []
    for other in others:
        if other != part and other.is_dir():
            inside = (file.relative_to(other).parts for file in _picture_files(other, warn=False))
            names |= {parts[0] for parts in inside if len(parts) > 1}
    return tuple(sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))


def _part(path: Path, split: str) -> Path:
    """Return the folder or file of a split in a folder; the folder itself where it has no parts."""
    for name in SPLITS[split]:
        for candidate in (path / name, path / f"{name}.npz", path / f"{name}.npy"):
            if candidate.exists():
                return candidate
    parts = [name for names in SPLITS.values() for name in names if (path / name).is_dir()]
    if parts or (split == "test" and not (path / "list_eval_partition.txt").is_file()):
        raise MissingPartError(
            f"{path}: holds no folder {split}/ (nor {split}.npz, {split}.npy), which split = {split!r} needs"
        )
    return path


def _picture_files(folder: Path, *, warn: bool) -> list[Path]:
    """Return the pictures of a folder, and warn of what else it holds: a kind that is not read may be part of the set."""
    shown = [
        f for f in folder.rglob("*") if not any(_hidden(name) for name in f.relative_to(folder).parts) and f.is_file()
    ]
    files = sorted(f for f in shown if f.suffix.lower() in PICTURES)
    others = Counter(f.suffix.lower() or f.name for f in shown if f.suffix.lower() not in PICTURES)
    if files and others and warn:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
        log.warning("%s: %d files are no pictures that are read (%s): left out", folder, others.total(), kinds)
    return files


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _celeba(files: list[Path], table: Path, split: str) -> list[Path]:
    """Return CelebA's files of a split: 0 is training, 1 validation (left out), 2 test."""
    with reading(table):
        rows = [line.split() for line in table.read_text().splitlines() if line.strip()]
    number = {"train": "0", "test": "2"}[split]
    chosen = {row[0] for row in rows if len(row) == 2 and row[1] == number}
    return [file for file in files if file.name in chosen]


def _array(path: Path) -> tuple[NDArray[np.generic], Tensor | None]:
    """Return the images of an array file as [n, c, h, w], and labels."""
    labels = None
    with reading(path):
        if path.suffix.lower() == ".npy":
            pixels = np.load(path, mmap_mode="r")
        else:
            with np.load(path) as arrays:
                if not arrays.files:
                    raise LookupError("it holds no array")
                key = "images" if "images" in arrays else next(iter(arrays))
                pixels = arrays[key]
                labels = _whole(path, arrays["labels"]) if "labels" in arrays else None
    if pixels.ndim == 3:
        return pixels[:, None], labels
    if pixels.ndim == 4 and pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        return pixels.transpose(0, 3, 1, 2), labels
    return pixels, labels


def _whole(path: Path, labels: NDArray[np.generic]) -> Tensor:
    """Return labels as integers; refuse what is not whole numbers."""
    bad = labels.ravel()
    if labels.dtype.kind in "iubf":
        bad = labels[~np.isfinite(labels) | (labels != np.floor(labels))]
    if len(bad):
        raise InputError(f"{path}: labels hold {bad[0].item()!r}: must be whole numbers 0, 1, ...")
    return torch.from_numpy(labels.astype(np.int64))
