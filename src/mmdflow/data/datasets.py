"""One way to load a data set by name: training and held-out samples, labels, where they came from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mmdflow import _checks
from mmdflow.data.idx import read_idx
from mmdflow.data.image_set import ImageSet
from mmdflow.data.image_sources import DATA_VARIABLE, NAMED, images
from mmdflow.data.tables import HUB
from mmdflow.data.toy import TOYS, toy
from mmdflow.errors import InputError

#: Bytes that a data set of images may take in memory as float32.
MAX_BYTES = 4 * 2**30


@dataclass(frozen=True)
class DataSet:
    """A data set split into training and held-out samples.

    Attributes:
        name: the name it was loaded by.
        train: [n, *event]; images are [n, channels, height, width] in [-1, 1].
        test: [m, *event], held out.
        train_labels: [n] class indices, or None.
        test_labels: [m] class indices, or None.
        source: where it came from, for reports.
    """

    name: str
    train: Float[Tensor, "n *event"]
    test: Float[Tensor, "m *event"]
    train_labels: Int[Tensor, " n"] | None
    test_labels: Int[Tensor, " m"] | None
    source: str

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return tuple(self.train.shape[1:])

    @cached_property
    def second_moment(self) -> float:
        """Mean square of the training entries."""
        return float(self.train.double().square().mean())


def load(name: str, path: str | None = None) -> DataSet:
    """Load a data set.

    Args:
        name: one of `DATASETS`: digits, mnist, fashion, cifar10, celeba64, church64, or a toy distribution.
        path: the folder of the IDX files of mnist or fashion, or anything that `images` reads for the other images. When None
            they are looked for in the folder that MMDFLOW_DATA names; mnist and fashion are, with `datasets` installed,
            downloaded from the Hugging Face hub.

    Raises:
        InputError: for an unknown name, files that are missing or corrupt, or images that take more than 4 GiB in memory:
            those are for `images`.

    Example:
        >>> load("digits").train.shape
        torch.Size([1438, 1, 8, 8])
    """
    return DATASETS[_checks.choice("data", name, DATASETS)](path)


def _digits(path: str | None) -> DataSet:
    _no_path("digits", path)
    file = Path(__file__).parent / "embedded" / "digits.npz"
    with np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    # a fifth of every class is held out, the same ones always
    held_out = np.concatenate([order[labels[order] == c][: round((labels == c).sum() / 5)] for c in range(10)])
    test = np.zeros(len(images), bool)
    test[held_out] = True
    x = torch.from_numpy(images[:, None].astype(np.float32) / 8 - 1)
    y, mask = torch.from_numpy(labels), torch.from_numpy(test)
    return DataSet("digits", x[~mask], x[mask], y[~mask], y[mask], "UCI optical digits (embedded)")


#: name -> (folders that MMDFLOW_DATA may hold, repository on the hub)
_IDX = {
    "mnist": (("mnist",), "ylecun/mnist"),
    "fashion": (("fashion-mnist", "fashion"), "zalando-datasets/fashion_mnist"),
}


def _idx(name: str, path: str | None) -> DataSet:
    folders, repository = _IDX[name]
    if path is not None:
        candidates = [Path(path)]
    else:
        root = os.environ.get(DATA_VARIABLE)
        candidates = [Path(root) / folder for folder in folders] if root else []
    for folder in candidates:
        if folder.is_dir():
            arrays = [read_idx(_idx_file(folder, f"{part}-{kind}")) for part in ("train", "t10k") for kind in _KINDS]
            return _from_arrays(name, arrays, str(folder))
    if path is not None:
        raise InputError(f"data path = {path}: no such folder")
    return _from_hub(name, repository)


_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _idx_file(folder: Path, stem: str) -> Path:
    for file in (folder / f"{stem}.gz", folder / stem):
        if file.exists():
            return file
    raise InputError(f"{folder}: holds no {stem}.gz (or {stem})")


def _from_arrays(name: str, arrays: list[NDArray[np.uint8]], source: str) -> DataSet:
    parts = []
    for pixels, labels in (arrays[:2], arrays[2:]):
        if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels) or len(pixels) == 0:
            raise InputError(
                f"{source}: {list(pixels.shape)} images with {list(labels.shape)} labels do not belong together"
            )
        parts.append(torch.from_numpy(pixels[:, None].astype(np.float32) / 127.5 - 1))
        parts.append(torch.from_numpy(labels.astype(np.int64)))
    return DataSet(name, parts[0], parts[2], parts[1], parts[3], source)


def _from_hub(name: str, repository: str) -> DataSet:
    missing = (
        f"data = {name!r}: no IDX files found; set {DATA_VARIABLE} to the folder that holds {_IDX[name][0][0]}/, "
        "give data.path, or use a machine with a network and pip install 'mmdflow[hub]'"
    )
    try:
        train, test = (images(f"{HUB}{repository}", split, channels=1) for split in ("train", "test"))
    except ImportError:
        raise InputError(missing) from None
    except InputError as error:
        raise InputError(f"{missing} ({error})") from error
    return DataSet(
        name, train.tensor(), test.tensor(), train.labels, test.labels, train.source.removesuffix(" (train)")
    )


def _images(name: str, path: str | None) -> DataSet:
    known = NAMED[name]
    sets: list[ImageSet] = []
    for split in ("train", "test"):
        sets.append(images(name if path is None else path, split, known.size, crop=known.crop))
    needed = sum(4 * len(part) * int(np.prod(part.event_shape)) for part in sets)
    if needed > MAX_BYTES:
        raise InputError(
            f"data = {name!r}: takes {needed / 2**30:.1f} GiB in memory: must be at most {MAX_BYTES / 2**30:g}; "
            f"mmdflow.data.images({name!r}) leaves it on disk"
        )
    train, test = sets
    return DataSet(name, train.tensor(), test.tensor(), train.labels, test.labels, train.source)


def _toy(name: str, path: str | None) -> DataSet:
    _no_path(name, path)
    train = toy(name, 50_000, torch.Generator().manual_seed(0))
    test = toy(name, 10_000, torch.Generator().manual_seed(1))
    return DataSet(name, train, test, None, None, f"toy distribution {name}, 50000 + 10000 draws")


def _no_path(name: str, path: str | None) -> None:
    """Raise InputError for a path of data that need none."""
    if path is not None:
        raise InputError(
            f"data.path = {path!r} with data.name = {name!r}: must be left out; these data come with mmdflow"
        )


DATASETS: dict[str, Callable[[str | None], DataSet]] = {
    "digits": _digits,
    "mnist": partial(_idx, "mnist"),
    "fashion": partial(_idx, "fashion"),
    **{name: partial(_images, name) for name in NAMED},
    **{name: partial(_toy, name) for name in TOYS},
}
