"""Processes that compute together, for tests: forks of the test's process, so that nothing is imported anew."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mmdflow.distributed.ranks import join


def on_ranks(
    size: int,
    task: Callable[[], Any],
    *,
    timeout: float = 60.0,
    silence: float = 1e9,
    killed: int | None = None,
    hung: int | None = None,
) -> list[Any]:
    """Return what the task returns on each of `size` ranks, but those that it kills or hangs; raise what it raised on the first.

    One that hangs is killed when the others have ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        children = [_fork(rank, size, task, Path(folder), timeout, silence) for rank in range(size)]
        for rank, child in enumerate(children):
            if rank != hung:
                os.waitpid(child, 0)
        if hung is not None:
            os.kill(children[hung], signal.SIGKILL)
            os.waitpid(children[hung], 0)
        results = []
        for rank in (rank for rank in range(size) if rank not in (killed, hung)):
            file = Path(folder) / str(rank)
            assert file.exists(), f"rank {rank} ended without a result"
            good, value = pickle.loads(file.read_bytes())
            assert good, f"rank {rank}: {value}"
            results.append(value)
    return results


def _fork(rank: int, size: int, task: Callable[[], Any], folder: Path, timeout: float, silence: float) -> int:
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), size)
        join("gloo", store, rank, size, timeout=timeout, silence=silence)
        result = True, task()
    except BaseException:
        result = False, traceback.format_exc()
    with contextlib.suppress(BaseException):
        (folder / f".{rank}").write_bytes(pickle.dumps(result))
        os.replace(folder / f".{rank}", folder / str(rank))
    os._exit(0)
