"""Threads for compiled loops that let go of Python's lock: as many as torch uses."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

Result = TypeVar("Result")


def over_rows(task: Callable[[slice], Result], rows: int, most: int) -> list[Result]:
    """Call the task on slices of at most `most` rows that cover all rows, side by side on torch's number of threads.

    Return what it returned, in the order of the rows.
    """
    workers = torch.get_num_threads()
    rounds = -(-rows // (workers * most))  # the same number of slices, as long, for every thread
    pieces = parts(rows, -(-rows // (workers * rounds)))
    if workers == 1 or len(pieces) == 1:
        return [task(piece) for piece in pieces]
    return list(_pool(workers, os.getpid()).map(task, pieces))


@contextmanager
def flushing() -> Iterator[None]:
    """Let this thread's numbers below the normal ones be 0 in the block, as `numba_sums.exp2` has it, and then as before.

    Tails of narrow kernels fall among them, where an operation takes a hundred cycles more.
    """
    flushed = bool(np.float32(2e-38) * np.float32(0.25) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


def parts(length: int, step: int) -> list[slice]:
    """Return slices of `step` entries, the last perhaps of fewer, that cover `length`."""
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


@functools.lru_cache(maxsize=1)
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Return the threads of this process (a forked child has lost its parent's)."""
    return ThreadPoolExecutor(workers, thread_name_prefix="mmdflow")
