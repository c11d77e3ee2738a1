"""Runs that are trained once, found again by what their recipe says, and measured in the time of this process."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmdflow.methods import load_pipeline
from mmdflow.methods.base import Pipeline
from mmdflow.recipe import Recipe
from mmdflow.runs import run
from mmdflow.runs.read import read_recipe

#: Steps that no budget of seconds allows.
_ENDLESS = 10**7


def timed_recipe(name: str, *, seed: int, seconds: float | None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe with a seed, trained for `seconds` instead of its steps where they are given, without pictures."""
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
    """Return the pipeline of a recipe: reused where its run in `runs` is finished, gone on with where it is not, else trained.

    Args:
        name: of the recipe.
        runs: folder of the runs; each has a folder whose name holds a hash of all that its recipe says.
        seed: of the training.
        progress: show bars.
        seconds: of training, by `own_time`; by default as many steps as the recipe says.
        changes: of the recipe's fields, as `read_recipe` takes them.
    """
    recipe = timed_recipe(name, seed=seed, seconds=seconds, changes=changes)
    folder = run_folder(name, recipe, runs)
    if not (folder / run.RECIPE_FILE).exists():
        run.build_check(recipe)
        run.open_run(recipe, folder)
    with own_time(recipe):
        run.train(recipe, folder, progress=progress)
    return load_pipeline(folder, "cuda" if on_gpu(recipe) else "cpu")


def on_gpu(recipe: Recipe) -> bool:
    """Whether a recipe is trained on a GPU here."""
    return recipe.training.accelerator != "cpu" and torch.cuda.is_available()


@contextmanager
def own_time(recipe: Recipe) -> Iterator[None]:
    """Measure seconds of training in the time of this process, which other programs do not lengthen; on a GPU, as they pass."""
    from mmdflow.training import module

    before = module.clock
    if not on_gpu(recipe):
        module.clock = time.process_time
    try:
        yield
    finally:
        module.clock = before
