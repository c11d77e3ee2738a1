"""Whether the other processes of a run still work: signs of life through its store, whatever the length of a step.

Every rank says every few seconds how much it has done: seconds of its processors, and bytes that it read or wrote. Rank 0 looks
at all, the others look at rank 0. The run is given up where

* a rank gives no sign, as one that is stopped, killed or cut off from the network;
* no rank has done anything: then one is stuck, and the others wait for it. A rank that takes long over a step works, so the
  others may wait for it as long as they like.

Given up means that the connections to the other ranks are shut: whatever waits for them fails at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from torch.distributed.distributed_c10d import Store

#: Signs within the longest silence that is borne.
_SIGNS = 9
#: The least work by which a rank counts as working, in seconds of a processor a second.
_LEAST = 0.02
#: Bytes read or written that count as a second of a processor: 50 kB/s is work, too.
_BYTES = 2.5e6


@dataclass
class Judge:
    """What is known of the ranks that are looked at, and what follows from it.

    Attributes:
        ranks: those that are looked at.
        limit: seconds of silence, or of standing still, that are borne.
        now: the clock, in seconds.
        all_ranks: whether these are all ranks of the run, so that it can be seen to stand still.

    Example:
        >>> clock = iter([0.0, 10.0, 50.0])
        >>> judge = Judge([0, 1], limit=45.0, now=lambda: next(clock))
        >>> judge.hear(0, "7 1.25")
        >>> judge.verdict()
        'rank 1 has given no sign of life for 50 s'
    """

    ranks: Sequence[int]
    limit: float
    now: Callable[[], float] = time.monotonic
    all_ranks: bool = True
    _signs: dict[int, str] = field(default_factory=dict)
    _heard: dict[int, float] = field(default_factory=dict)
    _work: dict[int, float] = field(default_factory=dict)
    _worked: float = 0.0
    _gone: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Begin to wait."""
        start = self._worked = self.now()
        self._heard = dict.fromkeys(self.ranks, start)

    def hear(self, rank: int, sign: str) -> None:
        """Note a sign: a number that grows and the work so far, or "end" of a rank that has ended well."""
        if sign == self._signs.get(rank):
            return
        self._signs[rank] = sign
        if sign == "end":
            self._gone.add(rank)
            return
        now, work = self.now(), float(sign.split()[1])
        if work - self._work.get(rank, 0.0) > _LEAST * (now - self._heard[rank]):
            self._worked = now
        self._work[rank], self._heard[rank] = work, now

    def verdict(self) -> str | None:
        """Return why the run is to be given up, or None."""
        now = self.now()
        for rank in self.ranks:
            if rank not in self._gone and now - self._heard[rank] > self.limit:
                return f"rank {rank} has given no sign of life for {now - self._heard[rank]:.0f} s"
        if self.all_ranks and now - self._worked > self.limit and len(self._gone) < len(self.ranks):
            return f"no rank has done anything for {now - self._worked:.0f} s: one is stuck"
        return None


class Watch:
    """Two threads of a rank: one exchanges signs, which a store that does not answer may block; one judges.

    Args:
        rank: this one.
        size: how many there are.
        store: of the run; a connection of its own is made.
        connections: to the other ranks, as `connections` returns them.
        limit: seconds of silence, or of standing still, that are borne.

    Attributes:
        found: why the run was given up, or None.
    """

    def __init__(self, rank: int, size: int, store: Store, connections: dict[int, int], limit: float) -> None:
        self.rank, self.size, self.found = rank, size, ""
        self._store, self._connections, self._period = _own(store), connections, limit / _SIGNS
        self._store.set_timeout(timedelta(seconds=max(1.0, limit)))
        self._seen = range(size) if rank == 0 else range(1)
        self._judge = Judge(self._seen, limit, all_ranks=rank == 0)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._exchange, self._look)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, and tell the others that this rank ends well."""
        self._ended.set()
        for thread in self._threads:
            thread.join(1.0)
        if not self._threads[0].is_alive():
            with contextlib.suppress(RuntimeError):
                self._store.set(_key(self.rank), "end")

    def _exchange(self) -> None:
        """Give signs, and hear those of the ranks that are looked at."""
        count = 0
        while not self._ended.wait(self._period if count else 0.0):
            count += 1
            with contextlib.suppress(RuntimeError):  # the store is gone: others are not heard, which is judged
                self._store.set(_key(self.rank), f"{count} {_work() - time.thread_time():.4f} {self.found}")
                known = [rank for rank in self._seen if self._store.check([_key(rank)])]
                for rank, sign in zip(known, self._store.multi_get(list(map(_key, known))), strict=True):
                    self._judge.hear(rank, sign.decode())
                    if rank != self.rank and (words := sign.decode().split(" ", 2)[2:]) and words[0]:
                        self._give_up(words[0])

    def _look(self) -> None:
        """Give the run up when it is time."""
        while not self._ended.wait(self._period / 2):
            if verdict := self._judge.verdict():
                self._give_up(verdict)

    def _give_up(self, why: str) -> None:
        if not self.found:
            self.found = why
            _shut(self._connections)


def _own(store: Store) -> Store:
    """Return a connection of its own to a store, which others do not block."""
    clone: Callable[[], Store] = getattr(store, "clone")  # noqa: B009 (torch's stubs lack it)
    return clone()


def _key(rank: int) -> str:
    return f"mmdflow/{rank}"


def connections() -> dict[int, int]:
    """Return the sockets of this process: handle -> inode, which tells whether the handle is still the same one's."""
    found: dict[int, int] = {}
    if not os.path.isdir("/dev/fd"):  # Windows
        return found
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found[int(name)] = status.st_ino
    return found


def _shut(connections: dict[int, int]) -> None:
    """Shut connections, as if the others had ended; sockets that are none, such as one that listens, stay."""
    for handle, inode in connections.items():
        with contextlib.suppress(OSError):
            if os.fstat(handle).st_ino == inode:
                with socket.socket(fileno=os.dup(handle)) as connection:
                    connection.getpeername()
                    connection.shutdown(socket.SHUT_RDWR)


def _work() -> float:
    """Return what this process and its children have done: seconds of processors, and bytes as seconds."""
    done = time.process_time() + sum(map(_child_seconds, _children("self")))
    with contextlib.suppress(OSError, ValueError):  # Linux alone
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        done += (int(lines["rchar"]) + int(lines["wchar"])) / _BYTES
    return done


def _child_seconds(process: str) -> float:
    with contextlib.suppress(OSError, ValueError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks = sum(int(fields[i]) for i in (11, 12, 13, 14))  # of itself, and of its children that ended
        return ticks / os.sysconf("SC_CLK_TCK") + sum(map(_child_seconds, _children(process)))
    return 0.0


def _children(process: str) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{process}/task").glob("*/children"):
            found += file.read_text().split()
    return found
