"""The commands that the campaign of kills strikes: small ones, with what they must have made in the end."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from mmdflow.runs.read import read_recipe
from mmdflow.runs.shards import read_shards
from mmdflow.training import read_log

SMALL = [
    "--training.max_steps=12",
    "--training.checkpoint_every=3",
    "--training.sample_every=9",
    "--training.log_every=1",
    "--training.events_per_level=8",
    "--features.width=8",
    "--features.depth=1",
    "--sampling.mean_events=100",
]
LONGER = "--training.max_steps=18"


@dataclass(frozen=True)
class Work:
    """A command in a folder.

    Attributes:
        command: what is struck.
        result: what it has made when it is done, to be compared; raises where it is not there.
        again: what a user then types to go on; the same command by default.
        needs: what is in the folder before: of the finished run "run", or of an earlier call of the command.
        exact: whether the result is the same at every call.
    """

    command: Callable[[Path], list[str]]
    result: Callable[[Path], object]
    again: Callable[[Path], list[str]] | None = None
    needs: tuple[str, ...] = ()
    exact: bool = True

    def next_command(self, folder: Path) -> list[str]:
        """Return what goes on in a folder."""
        return (self.again or self.command)(folder)

    def prepare(self, folder: Path, earlier: Path) -> None:
        """Put what the command needs, and the folder lacks, into a folder."""
        for name in self.needs:
            if (earlier / name).is_dir():
                shutil.copytree(earlier / name, folder / name, dirs_exist_ok=True)
            else:
                shutil.copy(earlier / name, folder / name)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _pixels(file: Path) -> str:
    return _digest(np.asarray(Image.open(file)).tobytes())


def _weights(file: Path) -> dict[str, str]:
    return {name: _digest(value.numpy().tobytes()) for name, value in sorted(load_file(file).items())}


def _trained(folder: Path) -> object:
    """The weights, the means, and every number that was logged."""
    run = folder / "run"
    parts = [_weights(run / "pipeline" / name) for name in ("model.safetensors", "target_means.safetensors")]
    logged = {name: values for name, values in read_log(run).items() if "second" not in name}
    return [*parts, logged]


def _train(folder: Path) -> list[str]:
    return ["train", "dmmd-checkerboard", f"--output={folder / 'run'}", *SMALL]


def _resume(folder: Path) -> list[str]:
    there = (folder / "run" / "recipe.yaml").exists()
    return ["train", "--resume", str(folder / "run")] if there else _train(folder)


def _lengthen(folder: Path) -> list[str]:
    recipe = folder / "run" / "recipe.yaml"
    longer = read_recipe(recipe).training.max_steps == 18
    return ["train", "--resume", str(folder / "run"), *([] if longer else [LONGER])]


def _figures(file: Path) -> dict[str, object]:
    return {name: value for name, value in json.loads(file.read_text()).items() if "second" not in name}


def _evaluated(folder: Path) -> object:
    return [_figures(folder / "run" / "metrics.json"), Image.open(folder / "run" / "report.png").size]


def _compared(folder: Path) -> object:
    """What does not depend on the seconds: the methods, and that all files are there."""
    result = json.loads((folder / "c" / "compare.json").read_text())
    Image.open(folder / "c" / "compare.png").load()
    Image.open(folder / "c" / "flow-matching.png").load()
    return [
        sorted(result["rows"]),
        [row["diverged"] for row in result["rows"].values()],
        (folder / "c/compare.md").exists(),
    ]


def _reproduced(folder: Path) -> object:
    figures = _figures(folder / "mode-seeking.json")
    return [figures["figures"], figures["finding"], Image.open(folder / "mode-seeking.png").size]


def _flow(folder: Path) -> list[str]:
    files = [f"--save={folder / 'x.npy'}", f"--snapshots={folder / 'moves.npy'}", f"-o={folder / 'x.png'}"]
    return ["flow", "--target=moons", "--num_particles=60", "--num_targets=80", "--num_steps=60", "--overwrite", *files]


def _flowed(folder: Path) -> object:
    return [_digest((folder / name).read_bytes()) for name in ("x.npy", "moves.npy")] + [_pixels(folder / "x.png")]


def _sample(folder: Path) -> list[str]:
    files = [f"--save={folder / 's.npz'}", f"-o={folder / 's.png'}"]
    return ["sample", str(folder / "run"), "-n", "30", "--seed=1", "--overwrite", *files]


def _bulk(folder: Path) -> list[str]:
    return ["sample", str(folder / "run"), "-n", "50", "--particles_per_run=10", f"--shards={folder / 'bulk'}"]


def _sampled(folder: Path) -> object:
    return [_digest(np.load(folder / "s.npz")["samples"].tobytes()), _pixels(folder / "s.png")]


WORKS = {
    "train": Work(_train, _trained, _resume),
    "train --overwrite": Work(lambda folder: [*_train(folder), "--overwrite"], _trained, needs=("run",)),
    "train --resume, longer": Work(_lengthen, _trained, needs=("run",)),
    "sample": Work(_sample, _sampled, needs=("run", "s.npz", "s.png")),
    "sample --shards": Work(
        _bulk, lambda folder: _digest(read_shards(folder / "bulk").numpy().tobytes()), needs=("run",)
    ),
    "evaluate": Work(lambda folder: ["evaluate", str(folder / "run"), "-n=40"], _evaluated, needs=("run",)),
    "compare": Work(
        lambda folder: [
            "compare",
            "--data=checkerboard",
            "--budget=0.3s",
            "-n=40",
            "--methods=[flow-matching]",
            f"--output={folder / 'c'}",
        ],
        _compared,
        exact=False,
    ),
    "reproduce": Work(
        lambda folder: ["reproduce", "mode-seeking", f"--output={folder}", "--overwrite"],
        _reproduced,
        needs=("mode-seeking.json", "mode-seeking.png"),
    ),
    "flow": Work(_flow, _flowed, needs=("x.npy", "moves.npy", "x.png")),
}


def shrink(setting: Callable[[Any, str, Any], None] = setattr) -> None:
    """Make what the commands do small, in this process: files of 20 samples, few judged points, a short study.

    Args:
        setting: sets an attribute; a test's is undone at its end.
    """
    from mmdflow import studies
    from mmdflow.evaluation import models
    from mmdflow.runs import shards

    judged = models.judged_data

    def few(spec):
        whole = judged(spec)
        return dataclasses.replace(whole, train=whole.train[:500], test=whole.test[:200])

    tiny = {"num_points": 30, "grid": 5, "num_steps": 20, "regularizations": (1e-2, 1e4)}
    setting(models, "judged_data", few)
    setting(shards, "PER_FILE", 20)
    setting(studies.module("mode-seeking"), "SCALES", {"small": tiny})
