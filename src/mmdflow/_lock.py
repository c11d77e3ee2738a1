"""One process at a time in a folder: a lock that the system gives back when its owner dies."""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmdflow._run_folder import LOCK
from mmdflow.errors import InputError

log = logging.getLogger(__name__)

#: The locks that this process holds: folder -> handle.
_held: dict[Path, int] = {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder until the block ends; its file `.lock` says who does: process, user, host, since when.

    The lock is the system's (flock), so that it goes with a process that is killed. The file that such a process leaves is said
    and taken over. Where a file system knows no locks, a warning says so.

    Raises:
        InputError: if another process holds it; says which, and for how long.
    """
    file = folder / LOCK
    handle = _taken(file)
    try:
        if left := os.read(handle, 4096):
            log.warning("%s: left by %s, which ended without removing it; going on", file, _owner(left))
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(_myself()).encode())
        _held[folder] = handle
        yield
    finally:
        _held.pop(folder, None)
        if _same(handle, file):
            file.unlink()  # before it is let go: who opens it later makes another
        os.close(handle)


def check_held(folder: Path) -> None:
    """Check that a folder which this process holds is still the one that it took; others pass.

    Raises:
        InputError: where it was removed, perhaps with another in its place.
    """
    if folder in _held and not _same(_held[folder], folder / LOCK):
        raise InputError(f"{folder}: removed or replaced while it was in use; nothing more is written there")


def _same(handle: int, file: Path) -> bool:
    """Whether an open file is the one of a name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except OSError:
        return False


def _taken(file: Path) -> int:
    """Return the handle of the lock file, locked."""
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"{file}: cannot be written ({error.strerror or error})") from error
        try:
            _lock(handle)
        except BlockingIOError:
            left = os.read(handle, 4096)
            os.close(handle)
            raise InputError(
                f"{file.parent}: in use by {_owner(left)}; wait until it ends, or stop it (the lock goes with it)"
            ) from None
        except OSError as error:
            log.warning("%s: no lock on this file system (%s); let no other process train there", file, error.strerror)
        if _same(handle, file):
            return handle
        os.close(handle)  # its owner has removed it between our opening and locking it


def _lock(handle: int) -> None:
    """Lock an open file, or raise BlockingIOError."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        os.lseek(handle, 2**30, os.SEEK_SET)  # behind the text, which others may then read
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            raise BlockingIOError from error
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _myself() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "?"
    return {"pid": os.getpid(), "user": user, "host": socket.gethostname(), "since": time.time()}


def _owner(text: bytes) -> str:
    """Return in words whom the text of a lock file names."""
    try:
        owner = json.loads(text)
        minutes = max(0.0, time.time() - owner["since"]) / 60
        age = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
        return f"process {owner['pid']} of {owner['user']} on {owner['host']}, for {age}"
    except (ValueError, TypeError, KeyError):
        return "another process"
