"""Files: written aside and renamed, read with one clear line when they are damaged; where the cache and shipped models are."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmdflow.errors import InputError, reason

log = logging.getLogger(__name__)


@contextmanager
def reading(path: str | Path, complaint: str = "not readable", *, missing: str = "no such file") -> Iterator[None]:
    """The gate around every reader: what goes wrong inside, of whatever kind, becomes one line of file and cause.

    Readers of damaged files raise zlib.error, TokenError, RecursionError, MemoryError and much else; no list of them is whole.

    Raises:
        InputError: in place of the error. Those that are one already, and missing packages, pass.

    Example:
        >>> with reading("a.json", "not readable JSON"):
        ...     json.loads("[")
        Traceback (most recent call last):
            ...
        mmdflow.errors.InputError: a.json: not readable JSON (Expecting value: line 1 column 2 (char 1))
    """
    try:
        yield
    except (InputError, ImportError):
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: {missing}") from None
    except Exception as error:
        cause = reason(error, 200)
        if "allow_pickle" in cause:  # what NumPy says of any file that does not begin as an array's, and of objects
            cause = "it is no array of NumPy, or one of Python objects"
        raise InputError(f"{path}: {complaint} ({cause})") from error


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes `path`'s place when the block ends well, else it is removed.

    What a process of this machine left that was killed while it wrote the same file is removed first, with a warning.
    """
    path = Path(path)
    make_folder(path.parent)
    for left in abandoned(path):
        log.warning("%s: left by a process that was killed; removed", left)
        left.unlink(missing_ok=True)
    aside = aside_of(path)
    try:
        with writing(path):
            yield aside
            _apply_umask(aside)
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise InputError if a file cannot be made in the folder of `path`, which may not be there yet; leaves nothing behind."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with writing(path), tempfile.TemporaryFile(dir=folder):
        pass


def aside_of(path: Path) -> Path:
    """Return where this process writes a file before it takes its place."""
    return path.with_name(f".{path.stem}.{os.getpid()}-{_machine()}.tmp{path.suffix}")


def abandoned(path: Path) -> list[Path]:
    """Return what processes of this machine left beside a file that were killed while they wrote it."""
    files = path.parent.glob(f".{glob.escape(path.stem)}.*-{_machine()}.tmp{glob.escape(path.suffix)}")
    return [file for file in litter(path.parent, [path.name]) if file in set(files)]


def _machine() -> str:
    """Return eight letters for this machine: processes of others cannot be seen to live."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


@contextmanager
def new_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it takes `path`'s place when the block ends well, else it is removed.

    A folder that is replaced is renamed away first and removed last, so its content is never half of each.
    """
    path = Path(path)
    if path.is_file() or (in_use(path) and not overwrite):
        raise InputError(f"{path}: already in use; choose another folder or ask to overwrite it")
    make_folder(path.parent)
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    try:
        with writing(path):
            yield aside
            _apply_umask(aside, *aside.rglob("*"))
            if path.exists():
                old = aside.with_name(aside.name + ".old")
                os.replace(path, old)
                try:
                    os.replace(aside, path)
                except BaseException:  # Ctrl-C, too
                    os.replace(old, path)
                    raise
                shutil.rmtree(old)
            else:
                os.replace(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


#: What the writers of safetensors and torch say where the system's write fails.
_DISK = ("os error", "PytorchStreamWriter", "inline_container", "iostream error")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what writers raise on a full disk, or one that fails, into one line; other errors pass."""
    try:
        yield
    except Exception as error:
        failed = isinstance(error, OSError) or any(words in str(error) for words in _DISK)
        if not failed:
            raise
        why = (isinstance(error, OSError) and error.strerror) or reason(error)
        raise InputError(f"{path}: cannot be written ({why})") from error


#: Names of what a killed process leaves: .NAME.XXXXXXXX of new folders, .old behind it of replaced ones, and of files
#: .STEM.PID-MACHINE.tmp.SUFFIX.
_LITTER = re.compile(r"\.(.+?)\.(?:[a-z0-9_]{8}(?:\.old)?|(\d+)(?:-[0-9a-f]{8})?\.tmp(?:\.\w+)?)")


def litter(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return what processes that were killed while they wrote files or folders of those names left in a folder."""
    stems = {part for name in names for part in (name, Path(name).stem)}
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _LITTER.fullmatch(path.name)
        if match is not None and match[1] in stems and not (match[2] and _alive(int(match[2]))):
            found.append(path)
    return found


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _apply_umask(*paths: Path) -> None:
    """Give files and folders the permissions of any new one: tempfile and safetensors make theirs for their owner alone."""
    umask = os.umask(0o077)
    os.umask(umask)
    for path in paths:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def in_use(path: Path) -> bool:
    """Whether there is something at `path` that writing there would lose."""
    try:
        return path.is_file() or (path.is_dir() and any(path.iterdir()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def make_folder(path: Path) -> Path:
    """Make a folder and its parents."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror or error})") from error
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError(f"{path}: no permission to write there")
    return path


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with new_file(path) as aside:
        aside.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; raise InputError in one line when it is missing or damaged."""
    with reading(path, "not readable JSON", missing="missing"):
        return json.loads(path.read_text())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the cache: MMDFLOW_CACHE, else mmdflow under the user's cache folder."""
    base = os.environ.get("MMDFLOW_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmdflow"


def shipped_models() -> dict[str, Path]:
    """Return the models that come with the package: name -> folder."""
    root = Path(__file__).parent / "pretrained"
    return {p.name: p for p in sorted(root.iterdir()) if p.is_dir()} if root.is_dir() else {}


def commit() -> str | None:
    """Return the commit of the checkout that the package runs from, with -dirty if it differs; None elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
