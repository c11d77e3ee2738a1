"""The campaign of kills: every command is struck at random moments, and the next one must go on as if nothing had been.

`python -m tests.faults.kills [ROUNDS] [SEED]` prints a table and writes results/faults-kills.json. A round strikes every command
in every way once; a case is found again by its command, its way and its seed.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from mmdflow._files import commit, write_json
from mmdflow.cli import main
from mmdflow.runs.read import read_recipe
from mmdflow.training.checkpoint import read_checkpoint
from tests.faults.strikes import Disk, Ended, at, clock_back, limit_files, pages, run, send
from tests.faults.works import WORKS, Work, shrink

RESULTS = Path(__file__).parents[2] / "results" / "faults-kills.json"
#: Way -> how often a round strikes in it. A kill "at a change" comes right before the process changes a file.
WAYS = {
    "SIGKILL, at a change": 2,
    "SIGKILL": 2,
    "SIGKILL, clock back": 1,
    "SIGTERM": 1,
    "SIGINT": 1,
    "full disk": 1,
    "read-only disk": 1,
    "folder removed": 1,
}
#: Exit codes that a way may lead to; of the others those of errors.
_ENDS = {"SIGTERM": (0, 143), "SIGINT": (0, 130)}


@dataclass
class Undisturbed:
    """A command that nothing befell: what it makes, and what it takes."""

    result: object
    ended: Ended
    before: int
    after: int
    largest: int


@dataclass
class Campaign:
    """Cases in a folder, beside the results of commands that nothing befell.

    Attributes:
        base: the folder.
        earlier: holds a finished run, and what earlier calls of the commands made.
    """

    base: Path
    earlier: Path = field(init=False)
    _undisturbed: dict[str, Undisturbed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make a run and the results of commands that write over them: in this process, so that its forks have all imported."""
        self.earlier = self.base / "earlier"
        self.earlier.mkdir()
        for name in ("train", "evaluate", "sample", "reproduce", "flow"):
            command = [word.replace("--seed=1", "--seed=0") for word in WORKS[name].command(self.earlier)]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                code = main([*command, "--seed=5"] if name in ("reproduce", "flow") else command)
            assert code == 0, name
        for name in ("metrics.json", "report.png"):  # of an evaluation, which is struck itself
            (self.earlier / "run" / name).unlink()

    def undisturbed(self, name: str) -> Undisturbed:
        """Return what a command makes that nothing befalls."""
        if name not in self._undisturbed:
            work, folder = WORKS[name], self.base / "undisturbed"
            folder.mkdir()
            work.prepare(folder, self.earlier)
            before = pages(folder)
            ended = run(work.command(folder), folder)
            assert ended.code == 0, (name, ended.text)
            largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            self._undisturbed[name] = Undisturbed(work.result(folder), ended, before, pages(folder), largest)
            shutil.rmtree(folder)
        return self._undisturbed[name]

    def case(self, name: str, way: str, seed: str) -> list[str]:
        """Strike a command and go on; return what was wrong, each as "lost: ...", "silent: ..." or "unclear: ..."."""
        work, usual, rng = WORKS[name], self.undisturbed(name), random.Random(seed)
        disk = Disk(self.base / "case") if self._empty() and way.endswith("disk") else None
        folder = self.base / "case"
        work.prepare(folder, self.earlier)
        try:
            ended = _strike(work, way, folder, usual, rng, disk)
            wrong = [*_ending(way, ended), *_parts(folder)]
            done = _done(work, folder, usual)
            if ended.code == 0 and way != "folder removed" and done is not True:
                wrong.append(f"silent: it ended well, {done}")
            if way == "folder removed":
                work.prepare(folder, self.earlier)
            inside = clock_back if way.endswith("clock back") else lambda: None
            again = run(work.next_command(folder), folder, inside=inside)
            if again.code != 0:
                wrong.append(f"lost: {work.next_command(folder)} ends with {again.code}: {again.text[-400:]}")
            elif (done := _done(work, folder, usual)) is not True:
                wrong.append(f"silent: after the next command {done}")
            left = [path for path in folder.rglob(".*") if str(path) not in again.text]
            return [*wrong, *(f"silent: {path.name} is left, and not named" for path in left)]
        finally:
            if disk is not None:
                disk.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _empty(self) -> bool:
        (self.base / "case").mkdir()
        return True


def _strike(work: Work, way: str, folder: Path, usual: Undisturbed, rng: random.Random, disk: Disk | None) -> Ended:
    """Run the command, let it be struck, and take the cause away again."""
    command, moment = work.command(folder), rng.uniform(0.0, 1.0) * usual.ended.cpu
    if way == "SIGKILL, at a change":
        return run(command, folder, struck_at=rng.randint(1, usual.ended.changes))
    if way == "folder removed":
        return run(command, folder, outside=at(moment, lambda _: shutil.rmtree(folder, ignore_errors=True)))
    if disk is None:
        number = signal.Signals[way.partition(",")[0]]
        return run(command, folder, outside=at(moment, send(number)))
    if way == "read-only disk":
        ended = run(command, folder, outside=at(rng.choice([0.0, moment]), lambda _: disk.remount("ro")))
        disk.remount("rw")
        return ended
    share = rng.uniform(0.0, 0.95)
    if not disk.remount(f"size={usual.before + round(share * (usual.after - usual.before))}"):
        return run(command, folder, inside=limit_files(round(share * usual.largest)))
    ended = run(command, folder)
    disk.remount("size=64m")
    return ended


def _ending(way: str, ended: Ended) -> list[str]:
    """Return what was wrong with how a command ended: it must say in a line what befell it."""
    wrong = []
    if way.startswith("SIGKILL"):
        return [] if ended.code in (0, -signal.SIGKILL) else [f"unclear: code {ended.code}: {ended.text[-400:]}"]
    if ended.code not in _ENDS.get(way, (0, 1, 2)):
        wrong.append(f"unclear: code {ended.code}: {ended.text[-400:]}")
    last = (ended.text.strip().splitlines() or [""])[-1]
    if ended.code != 0 and "mmdflow: " not in last:
        wrong.append(f"unclear: the last line is {last!r}")
    if "Traceback" in ended.text or "MMDFLOW_DEBUG" in ended.text:
        wrong.append(f"unclear: {ended.text[-1500:]}")
    return wrong


def _done(work: Work, folder: Path, usual: Undisturbed) -> object:
    """Return True where all is there as if nothing had been, else what is not, in words."""
    try:
        found = work.result(folder)
    except Exception as error:  # of what is missing or broken there are many kinds
        return f"the result is not there ({type(error).__name__}: {error})"
    return True if found == usual.result else f"the result is another: {_difference(found, usual.result)}"


def _difference(found: object, usual: object, place: str = "") -> str:
    """Return the first place where results differ."""
    if isinstance(found, dict) and isinstance(usual, dict) and found.keys() == usual.keys():
        pairs = [(f"{place}/{key}", found[key], usual[key]) for key in found]
    elif isinstance(found, list) and isinstance(usual, list) and len(found) == len(usual):
        pairs = [(f"{place}/{i}", *pair) for i, pair in enumerate(zip(found, usual, strict=True))]
    else:
        return f"{place}: {str(found)[:300]} for {str(usual)[:300]}"
    return next(_difference(a, b, where) for where, a, b in pairs if a != b)


#: How files are read that are whole or not there; logs grow.
_READ: dict[str, Callable[[Path], object]] = {
    ".npy": np.load,
    ".npz": lambda path: list(np.load(path).values()),
    ".json": lambda path: json.loads(path.read_text()),
    ".png": lambda path: Image.open(path).load(),
    ".safetensors": load_file,
    ".yaml": read_recipe,
    ".ckpt": lambda path: read_checkpoint(path.parent.parent),
}


def _parts(folder: Path) -> list[str]:
    """Return the files that pass for whole ones and are not; what is hidden passes for nothing."""
    wrong = []
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or path.suffix not in _READ:
            continue
        try:
            _READ[path.suffix](path)
        except Exception as error:  # of damage there are many kinds
            wrong.append(f"silent: {path} is not whole ({type(error).__name__}: {error})")
    return wrong


def campaign_of(rounds: int = 1, seed: int = 0) -> int:
    """Run the campaign; write its table after every case, and print it; return 1 if anything was wrong."""
    shrink()
    table: dict[str, Counter[str]] = defaultdict(Counter)
    faults: list[str] = []
    start, of = time.time(), commit()
    cases = [(name, way, i) for way, count in WAYS.items() for i in range(count) for name in WORKS]
    with tempfile.TemporaryDirectory() as base:
        campaign = Campaign(Path(base).resolve())
        for name, way, number in [(*case, 10 * turn + i) for turn in range(rounds) for *case, i in cases]:
            wrong = campaign.case(name, way, f"{name}, {way}, {seed} {number}")
            kinds = {line.partition(":")[0] for line in wrong}
            table[name].update(["tried", way, *(kinds or ["clean"])])
            faults += [f"{name}, {way}, {seed} {number}: {line}" for line in wrong]
            print(f"{name}, {way}, {seed} {number}: {'; '.join(wrong) or 'clean'}", flush=True)
            report = {
                "command": f"python -m tests.faults.kills {rounds} {seed}",
                "commit": of,
                "seconds": round(time.time() - start),
                "rows": {name: dict(table[name]) for name in WORKS if name in table},
                "faults": faults,
            }
            write_json(RESULTS, report)
    print(markdown(report["rows"]))
    return 1 if faults else 0


def markdown(rows: dict[str, dict[str, int]]) -> str:
    """Return the table of a campaign."""
    columns = ["tried", *WAYS, "clean", "lost", "silent", "unclear"]
    total = sum((Counter(counts) for counts in rows.values()), Counter())
    lines = [f"| command | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, counts in [*rows.items(), ("all", total)]:
        lines.append(f"| {name} | {' | '.join(str(counts.get(column, 0)) for column in columns)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(campaign_of(*map(int, sys.argv[1:])))
