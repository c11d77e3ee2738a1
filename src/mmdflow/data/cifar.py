"""CIFAR-10's binary batches: a byte of label and 3072 of pixels an image (Krizhevsky 2009)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmdflow.errors import InputError

_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_RECORD = 1 + 3 * 32 * 32


def is_cifar(folder: Path) -> bool:
    """Whether a folder (or cifar-10-batches-bin in it) holds batches, binary or pickled."""
    return any((_inner(folder) / name).exists() for name in ("data_batch_1.bin", "data_batch_1", "test_batch.bin"))


def read_cifar(folder: Path, split: str) -> tuple[NDArray[np.uint8], Tensor]:
    """Return a split's images, [n, 3, 32, 32], and labels, [n].

    Raises:
        InputError: if a batch is missing, truncated, or of the pickled version, which could run code.
    """
    folder = _inner(folder)
    parts = []
    for name in _FILES[split]:
        file = folder / name
        try:
            data = np.fromfile(file, np.uint8)
        except FileNotFoundError:
            pickled = (folder / name.removesuffix(".bin")).exists()
            why = "the pickled version is not read, as it could run code; take the binary one" if pickled else "missing"
            raise InputError(f"{file}: {why}") from None
        except OSError as error:
            raise InputError(f"{file}: not readable ({error.strerror or error})") from error
        if len(data) == 0 or len(data) % _RECORD or data[::_RECORD].max() > 9:
            raise InputError(
                f"{file}: holds {len(data)} bytes: must be records of {_RECORD}, the first byte a label 0 to 9"
            )
        parts.append(data.reshape(-1, _RECORD))
    records = np.concatenate(parts)
    return records[:, 1:].reshape(-1, 3, 32, 32), torch.from_numpy(records[:, 0].astype(np.int64))


def _inner(folder: Path) -> Path:
    for name in ("cifar-10-batches-bin", "cifar-10-batches-py"):
        if (folder / name).is_dir():
            return folder / name
    return folder
