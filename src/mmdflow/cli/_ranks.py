"""Commands on several processes, as torchrun starts them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Commands that share their work out.
_SHARED = ("flow", "sample", "train")


@contextmanager
def joined(command: str) -> Iterator[None]:
    """Run a command on all processes that torchrun has started; rank 0 alone prints. Nothing on one process.

    torchrun ends the others by SIGTERM when a process dies: they say so, in one line.

    Raises:
        InputError: for a command that several processes would each do alone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield
        return
    from mmdflow.distributed import connect
    from mmdflow.errors import InputError

    if command not in _SHARED:
        raise InputError(
            f"{command} on {size} processes: must be one of {', '.join(_SHARED)}, which share their work out"
        )
    signal.signal(signal.SIGTERM, _stopped)
    ranks = connect()
    with contextlib.ExitStack() as stack:
        if not ranks.first:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def process() -> str:
    """Return which of several processes this is, for messages; nothing on one."""
    return f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ else ""


def _stopped(number: int, frame: Any) -> None:
    from mmdflow.errors import RankLostError

    raise RankLostError("stopped by SIGTERM, as torchrun stops all processes of a run of which one has ended")
