"""Runs that are trained once and found again by their recipe."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmdflow import _run_folder
from mmdflow.methods import load_pipeline
from mmdflow.methods.base import Pipeline
from mmdflow.recipe import Recipe
from mmdflow.runs import train
from mmdflow.runs.read import read_recipe

#: Steps that no budget of seconds allows.
_ENDLESS = 10**7


def timed_recipe(name: str, *, seed: int, seconds: float | None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe with a seed and without pictures, trained for `seconds` instead of its steps where they are given."""
    fields = dict(changes or {})
    loop: dict[str, Any] = {"seed": seed, "sample_every": 0}
    if seconds is not None:
        loop |= {"max_seconds": seconds, "max_steps": _ENDLESS}
    return read_recipe(name, fields | {"training": {**fields.get("training", {}), **loop}})


def run_folder(name: str, recipe: Recipe, runs: Path) -> Path:
    """Return the folder of a recipe's run in `runs`: its name holds a hash of all that the recipe says."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:10]
    return runs / f"{name}-{digest}"


def trained(
    name: str,
    runs: Path,
    *,
    seed: int,
    progress: bool,
    seconds: float | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Pipeline:
    """Load a finished run, resume an unfinished one, else train.

    Args:
        name: of the recipe.
        runs: folder of the runs; each has a folder whose name holds a hash of its recipe.
        seed: of the training.
        progress: show bars.
        seconds: of training, by `run_clock`; by default as many steps as the recipe says.
        changes: of the recipe's fields, as `read_recipe` takes them.
    """
    recipe = timed_recipe(name, seed=seed, seconds=seconds, changes=changes)
    folder = run_folder(name, recipe, runs)
    if not (folder / _run_folder.RECIPE).exists():
        train.build_check(recipe)
        train.open_run(recipe, folder)
    train.train(recipe, folder, progress=progress, clock=run_clock(recipe))
    return load_pipeline(folder, "cuda" if on_gpu(recipe) else "cpu")


def on_gpu(recipe: Recipe) -> bool:
    """Whether a recipe is trained on a GPU here."""
    return recipe.training.accelerator != "cpu" and torch.cuda.is_available()


def run_clock(recipe: Recipe) -> Callable[[], float]:
    """CPU time on a CPU run, which other programs do not lengthen; wall-clock on a GPU."""
    return time.perf_counter if on_gpu(recipe) else time.process_time
