"""What a flow records of its particles, in memory or in a file that numpy maps: large populations."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext, suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow._files import abandoned, aside_of, make_folder, writing
from mmdflow.errors import InputError

log = logging.getLogger(__name__)


class Memory:
    """Snapshots that stay in memory."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, particles: Float[Tensor, "n *event"]) -> None:
        """Keep a snapshot."""
        self._kept.append(particles)

    def trajectory(self) -> Float[Tensor, "S n *event"]:
        """Return all snapshots."""
        return torch.stack(self._kept)


class Snapshots:
    """Snapshots that go to a .npy file, [S, n, *event]: a flow of a million particles then holds one copy of them.

    ``numpy.load(path, mmap_mode="r")`` reads any snapshot without the others; the `trajectory` of the flow's result is such a
    map. The file is written aside, `.NAME.PID-MACHINE.tmp.npy`, and takes its name when the flow ends. It holds whole snapshots
    at every moment: after Ctrl-C, an error or a full disk it takes its name with those that were made until then, and after a
    kill numpy reads the file aside, which the next flow names in a warning and leaves.

    Args:
        path: of the file, which must end in .npy.
        overwrite: replace a file that is there already.

    Raises:
        InputError: for another ending; when a flow begins, for a file that is there already, particles whose type NumPy does
            not have (bfloat16), or a folder that cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mmdflow import MMD, flow
        >>> from mmdflow.flows import Record
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "moves.npy")
        ...     result = flow(MMD([[1.0]]), [[0.0], [2.0]], num_steps=40, save_every=Record(20, snapshots=file))
        ...     np.load(file, mmap_mode="r").shape, result.trajectory.shape
        ((3, 2, 1), (3, 2, 1))
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path, self.overwrite = Path(path), overwrite
        if self.path.suffix != ".npy":
            raise InputError(f"snapshots = {str(path)!r}: must end in .npy")
        self._file: IO[bytes] | None = None
        self._count = 0

    def __enter__(self) -> Snapshots:
        if self.path.exists() and not (self.overwrite and self.path.is_file()):
            raise InputError(f"{self.path}: is there already; Snapshots(path, overwrite=True) replaces it")
        make_folder(self.path.parent)
        for left in abandoned(self.path):
            log.warning(
                "%s: the snapshots of a flow that was killed; numpy reads it, remove it when it is not needed", left
            )
        self._count = 0
        with writing(self.path):
            self._file = aside_of(self.path).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        with writing(self.path), suppress(OSError) if error is not None else nullcontext():
            self._file.close()  # writes again what did not fit
        self._file = None
        if self._count:
            os.replace(aside_of(self.path), self.path)
        else:
            aside_of(self.path).unlink(missing_ok=True)

    def add(self, particles: Float[Tensor, "n *event"]) -> None:
        """Append a snapshot, then count it in the head of the file.

        Raises:
            InputError: for particles of a type that NumPy does not have, or where writing fails.
        """
        if particles.dtype == torch.bfloat16:
            raise InputError("snapshots with particles of torch.bfloat16: NumPy has no such type; must be None")
        assert self._file is not None
        array = particles.detach().cpu().contiguous().numpy()
        with writing(self.path):
            head = _head(array, self._count)
            self._file.seek(len(head) + self._count * array.nbytes)
            self._file.write(array.data)
            self._file.flush()
            self._count += 1
            self._file.seek(0)
            self._file.write(_head(array, self._count))
            self._file.flush()

    def trajectory(self) -> Float[Tensor, "S n *event"]:
        """Return the snapshots as they lie in the file; a write to the tensor does not reach it."""
        return torch.from_numpy(np.load(self.path, mmap_mode="c"))


def _head(array: np.ndarray[Any, np.dtype[Any]], count: int) -> bytes:
    """Return the head of a .npy file of so many arrays; NumPy pads it so that its length does not depend on the number."""
    head = BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": (count, *array.shape)}
    np.lib.format.write_array_header_1_0(head, shape)
    return head.getvalue()
