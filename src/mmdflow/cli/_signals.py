"""SIGTERM, by which systems stop a process, answered as Ctrl-C is: what was begun is put away, and one line says so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` inside the block, and SIGINT `KeyboardInterrupt`, where nothing else answers them.

    What they raise inside a library in C may be lost there: it comes out as an error of the library's own, such as that a file
    cannot be read. So it is noted which signal came, and such an error is answered as the signal.
    """
    alone = threading.current_thread() is threading.main_thread()
    usual: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    taken = [number for number, handler in usual.items() if alone and signal.getsignal(number) is handler]
    came: list[type[KeyboardInterrupt]] = []

    def stop(number: int, frame: Any) -> None:
        from mmdflow.errors import Terminated

        came.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        raise came[-1]

    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        if came:
            raise came[-1] from error
        raise
    finally:
        for number in taken:
            signal.signal(number, usual[number])
