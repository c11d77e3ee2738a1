"""What befalls a command: signals at random moments, a full disk, one that cannot be written, a folder that goes, a clock."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Audit events by which a process changes files.
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
#: Seconds in which a command must have ended.
PATIENCE = 300.0


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, or minus the number of the signal that killed it.
        text: what it wrote to stderr.
        changes: how often it was about to change a file in its folder.
        cpu: seconds of the processor.
    """

    code: int
    text: str
    changes: int = 0
    cpu: float = 0.0


def run(
    command: list[str],
    folder: Path,
    *,
    inside: Callable[[], None] = lambda: None,
    struck_at: int | None = None,
    outside: Callable[[int], None] = lambda process: None,
) -> Ended:
    """Run a command in a fork of this process, in which all is imported.

    Args:
        command: for `mmdflow`.
        folder: in which its changes of files are counted.
        inside: called in the fork first.
        struck_at: SIGKILL right before so many changes are done.
        outside: called with the fork's number as it runs.
    """
    log, counted = folder.with_name(folder.name + ".log"), folder.with_name(folder.name + ".count")
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if not process:
        _command(command, folder, log, counted, inside, struck_at)
    outside(process)
    end, status, used = time.monotonic() + PATIENCE, None, None
    while status is None:
        done, found, used = os.wait4(process, os.WNOHANG)
        if done:
            status = found
        elif time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            end = float("inf")
        else:
            time.sleep(0.01)
    assert used is not None
    changes = int(counted.read_text()) if counted.exists() else 0
    text = log.read_text(errors="replace")
    for file in (log, counted):
        file.unlink(missing_ok=True)
    return Ended(os.waitstatus_to_exitcode(status), text, changes, used.ru_utime + used.ru_stime)


def _command(
    command: list[str], folder: Path, log: Path, counted: Path, inside: Callable[[], None], struck_at: int | None
) -> None:
    """Run the command; never return."""
    code, changes = 1, 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if (opened or event in _CHANGES) and str(arguments[0]).startswith(f"{folder}{os.sep}"):
            changes += 1
            if changes == struck_at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        inside()
        sys.addaudithook(watch)
        from mmdflow.cli import main

        code = main(command)
        counted.write_text(str(changes))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def at(seconds: float, strike: Callable[[int], None]) -> Callable[[int], None]:
    """Return what strikes a process when it has used so many seconds of the processor."""

    def outside(process: int) -> None:
        clock = (~process << 3) | 2  # Linux: the processor time of a process
        with contextlib.suppress(OSError):
            while time.clock_gettime(clock) < seconds:
                if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return
                time.sleep(0.004)
            strike(process)

    return outside


def send(number: int) -> Callable[[int], None]:
    """Return what sends a signal."""
    return lambda process: os.kill(process, number)


def clock_back() -> None:
    """Set the clock of this process back by a day."""
    now = time.time
    time.time = lambda: now() - 86400.0


def pages(folder: Path) -> int:
    """Return the bytes that a folder takes, in pages."""
    return sum(4096 * (1 + path.lstat().st_size // 4096) for path in [folder, *folder.rglob("*")])


def limit_files(size: int) -> Callable[[], None]:
    """Return what lets no file of this process grow beyond a size, where a small disk cannot be mounted."""

    def inside() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return inside


class Disk:
    """A disk of its own on a folder, where this process may mount one.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted = self._mount("-t", "tmpfs", "-o", "size=64m", "none", str(folder))

    def remount(self, options: str) -> bool:
        """Change its size, or whether it can be written; return whether that was done."""
        return self.mounted and self._mount("-o", f"remount,{options}", str(self.folder))

    def close(self) -> None:
        """Give it back."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _mount(*arguments: str) -> bool:
        try:
            return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
        except OSError:
            return False
