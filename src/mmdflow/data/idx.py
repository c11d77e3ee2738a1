"""IDX files, the format of MNIST and its relatives (LeCun et al. 1998), gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmdflow._files import reading
from mmdflow.errors import InputError

_MAX_ENTRIES = 2**33


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Raises:
        InputError: if the file is missing, truncated, or not IDX of unsigned bytes.
    """
    path = Path(path)
    with reading(path, "corrupt gzip or not readable", missing="missing"):
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or not 1 <= data[3] <= 4:
        raise InputError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}: must be an IDX file of unsigned bytes (000008..)"
        )
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise InputError(f"{path}: truncated in its header ({len(data)} bytes)")
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    if math.prod(shape) > _MAX_ENTRIES or len(data) - header != math.prod(shape):
        raise InputError(
            f"{path}: holds {len(data) - header} bytes of data: its header {list(shape)} needs {math.prod(shape)}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
