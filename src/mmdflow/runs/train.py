"""From a recipe to objects, and to a trained pipeline in a run folder."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import mmdflow
from mmdflow import _bfloat16, _checks, _run_folder, plots
from mmdflow._files import commit, in_use, litter, make_folder, new_file, read_json, remove, write_json
from mmdflow._lock import check_held, locked
from mmdflow._tensors import out_of_memory
from mmdflow.data import HUB, DataSet
from mmdflow.distributed import Ranks, current
from mmdflow.errors import DivergedError, InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods import get_method, load_pipeline
from mmdflow.methods.base import Pipeline, System, Trained
from mmdflow.recipe.data import ImageData, load_data
from mmdflow.recipe.specs import Recipe
from mmdflow.runs.read import read_recipe

log = logging.getLogger(__name__)


def build_loss(recipe: Recipe, dataset: DataSet | ImageData) -> nn.Module:
    """Return the loss around a new network, initialised by the recipe's seed."""
    return get_method(recipe.system).make_system().loss(recipe, dataset)


def build_check(recipe: Recipe) -> DataSet | ImageData:
    """Load the data and evaluate the loss of a recipe once, so that a mistake shows before a folder is made.

    Returns:
        The data.

    Raises:
        InputError: for settings that do not fit the data or each other.
        ImportError: if something that training needs is not installed.
    """
    if find_spec("lightning") is None:
        raise ImportError("training needs lightning: pip install 'mmdflow[train]'")
    if recipe.training.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("training.accelerator = 'gpu': no CUDA device is there; must be auto or cpu")
    if recipe.training.precision == "bfloat16":
        _bfloat16.spare_amx()  # before the first convolution; `_train` says what it comes to
    dataset = load_data(recipe.data)
    smallest, system = recipe.smallest(), get_method(recipe.system).make_system()
    rows = torch.arange(smallest.smallest_batch) % len(dataset.train)
    with torch.no_grad(), explain_out_of_memory(recipe):
        loss = build_loss(smallest, dataset)
        labels = system.labels(smallest, dataset)
        if labels is not None and system.rows(smallest):
            rows = torch.nonzero(labels == labels[0])[: len(rows), 0]
        told = [] if labels is None else [labels[rows]]
        loss(dataset.train[rows], torch.Generator().manual_seed(0), *told)
    return dataset


@contextmanager
def explain_out_of_memory(recipe: Recipe) -> Iterator[None]:
    """Turn an error of memory into one line that names the settings that take less.

    Raises:
        InputError: in place of the error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        name = "events_per_level" if hasattr(recipe.training, "events_per_level") else "batch_size"
        size = getattr(recipe.training, name)
        advice = [f"training.{name} = {size // 2} halves it"] if size > 1 else []
        if not recipe.training.checkpointing:
            advice.append("training.checkpointing=true keeps less of it")
        raise InputError(
            f"out of memory with training.{name} = {size}: {', '.join(advice) or 'no setting takes less'}"
        ) from error


def open_run(recipe: Recipe, folder: Path, *, overwrite: bool = False) -> None:
    """Make a run folder that holds the recipe.

    Args:
        recipe: what will be trained there.
        folder: a new or empty one.
        overwrite: lose the run that the folder holds; a folder with anything else in it is never overwritten.

    Raises:
        InputError: if the folder is in use.
    """
    left = litter(folder, _run_folder.FILES)
    if folder.is_dir() and in_use(folder) and {*folder.iterdir()} == {*left}:
        for path in left:
            remove(path)
    if in_use(folder):
        known = _run_folder.FILES | {path.name for path in left}
        others = sorted({p.name for p in folder.iterdir()} - known) if folder.is_dir() else [folder.name]
        if others or not (folder / _run_folder.RECIPE).is_file():
            content = f"holds {others[0]!r}" if others else "is not a run"
            raise InputError(f"output = {folder}: in use and {content}; choose another folder")
        if not overwrite:
            raise InputError(
                f"output = {folder}: already holds a run; go on with `mmdflow train --resume {folder}`, "
                "or give --overwrite to lose it, or choose another folder"
            )
        with locked(folder):
            last = (_run_folder.RECIPE, _run_folder.LOCK)  # without its recipe what is left would be no run
            for path in sorted(folder.iterdir(), key=lambda path: last.index(path.name) if path.name in last else -1):
                if path.name != _run_folder.LOCK:
                    remove(path)
    make_folder(folder)
    if recipe.data.path is not None and not recipe.data.path.startswith(HUB):  # a resume may come from elsewhere
        recipe = replace(recipe, data=replace(recipe.data, path=str(Path(recipe.data.path).resolve())))
    _write_recipe(recipe, folder)
    write_json(folder / _run_folder.PROVENANCE, _provenance())


def lengthen(folder: Path, max_steps: int) -> tuple[Recipe, int]:
    """Give a run, finished or not, another number of steps: `train` then goes on from its checkpoint.

    The pipeline of a finished run stays in its place until that of the longer run is there. The step size is that of a run of
    `max_steps`, from the step that was reached: step_size (1 - s / max_steps). After a finished run, whose step size had come
    down to 0, it rises at once.

    Args:
        folder: of the run.
        max_steps: of all steps, those that were taken counted.

    Returns:
        The recipe with `max_steps`, and the steps that were taken.

    Raises:
        InputError: for a run that is bounded by seconds, steps that were taken already, or if another process trains there.
    """
    from mmdflow.training.checkpoint import read_checkpoint

    recipe = read_recipe(folder / _run_folder.RECIPE)
    _checks.count("training.max_steps", max_steps)
    if recipe.training.max_seconds is not None:
        raise InputError(
            f"training.max_steps = {max_steps} with training.max_seconds = {recipe.training.max_seconds:g}: must be left out; "
            f"the run is bounded by seconds"
        )
    with locked(folder):
        checkpoint = read_checkpoint(folder)
        done = 0 if checkpoint is None else int(checkpoint["global_step"])
        if max_steps <= done:
            raise InputError(f"training.max_steps = {max_steps}: must be more than {done}, the steps that were taken")
        before = recipe.training.max_steps
        recipe = replace(recipe, training=replace(recipe.training, max_steps=max_steps))
        origin = read_json(folder / _run_folder.PROVENANCE) if (folder / _run_folder.PROVENANCE).exists() else {}
        _write_recipe(recipe, folder)
        if max_steps != before:
            write_json(
                folder / _run_folder.PROVENANCE,
                {**origin, "max_steps_before": [*origin.get("max_steps_before", []), before]},
            )
    return recipe, done


def _write_recipe(recipe: Recipe, folder: Path) -> None:
    with new_file(folder / _run_folder.RECIPE) as aside:
        aside.write_text(yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False))


def _finished(recipe: Recipe, folder: Path) -> bool:
    """Whether a run folder holds the pipeline of a recipe, and not that of a shorter run which was made longer."""
    if not (folder / _run_folder.PIPELINE).is_dir():
        return False
    made = read_json(folder / _run_folder.PIPELINE / "config.json").get("provenance", {}).get("recipe", {})
    steps = made.get("training", {}).get("max_steps", recipe.training.max_steps)
    return bool(steps == recipe.training.max_steps)


def train(
    recipe: Recipe, folder: Path, *, progress: bool = True, clock: Callable[[], float] = time.monotonic
) -> Pipeline:
    """Train in a run folder made by `open_run`, from its checkpoint on; leave the pipeline there and return it.

    A finished run is returned as it is. On several ranks (`mmdflow.distributed`) all call it alike; rank 0 alone writes.

    Args:
        recipe: of the run.
        folder: of the run.
        progress: show bars.
        clock: measures the seconds of training, `time.process_time` for CPU time.

    Raises:
        InputError: if another process trains there, the checkpoint is damaged or of another recipe, or memory does not suffice.
        DivergedError: when the loss or the weights become non-finite; the last good checkpoint stays.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.
    """
    if _finished(recipe, folder):
        _tidy(folder)
        return load_pipeline(folder / _run_folder.PIPELINE)
    if not current().first:
        return _train(recipe, folder, progress=False, clock=clock)
    with locked(make_folder(folder)):
        if _finished(recipe, folder):  # by now
            return load_pipeline(folder / _run_folder.PIPELINE)
        _remove_litter(folder)
        return _train(recipe, folder, progress=progress, clock=clock)


def _remove_litter(folder: Path) -> None:
    for path in litter(folder, _run_folder.FILES):
        log.warning("%s: left by a process that was killed; removed", path)
        remove(path)


def _tidy(folder: Path) -> None:
    """Remove what a killed process left in a finished run; where another works in it, or it cannot be written, it stays."""
    if (folder / _run_folder.LOCK).exists() or litter(folder, _run_folder.FILES):
        with suppress(InputError), locked(folder):
            _remove_litter(folder)


def _train(recipe: Recipe, folder: Path, *, progress: bool, clock: Callable[[], float]) -> Pipeline:
    from mmdflow.training import LossModule, SampleGrids, fit

    file = folder / _run_folder.PROVENANCE
    origin = read_json(file) if file.exists() else _provenance()
    make_folder(folder / _run_folder.CHECKPOINTS)
    if recipe.training.precision == "bfloat16":
        _bfloat16.prepare("training.precision = 'bfloat16'", _device(recipe))
    dataset = load_data(recipe.data)
    system = get_method(recipe.system).make_system()
    loss = system.loss(recipe, dataset)
    learned = system.learned(loss)
    if recipe.training.channels_last:
        learned.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = LossModule(loss, learned, recipe.training, clock=clock)
    ranks = current()
    _prepare_networks(learned, recipe, ranks)  # after the module has made its average, which needs none of it

    def draw(step: int) -> None:
        with module.pause(), _alone(learned, ranks):
            _draw_samples(recipe, system, loss, module.averaged, dataset, folder / _run_folder.SAMPLE_GRIDS, step)

    grids = SampleGrids(draw, recipe.training.sample_every)
    with explain_out_of_memory(recipe):
        labels = system.labels(recipe, dataset)
        fit(
            module,
            dataset.train,
            folder,
            batch_size=recipe.batch_size,
            labels=labels,
            **system.rows(recipe),
            callbacks=[grids],
            progress=progress,
        )
    provenance = {
        **origin,
        "device": module.trained_on,
        "precision": module.precision,
        "threads": module.threads.chosen or origin["threads"],
        "data": {**asdict(recipe.data), "source": dataset.source, **_classes(dataset)},
        "steps": module.steps,
        "train_seconds": round(module.seconds, 2),
        "recipe": _plain(asdict(recipe)),
    }
    averaged = module.averaged
    averaged.to(_device(recipe))  # Lightning has moved it off
    trained = Trained(recipe, loss, averaged.eval(), dataset, provenance, progress=progress)
    with _alone(learned, ranks):
        pipeline = system.pipeline(trained).to("cpu")
    if ranks.first:
        check_held(folder)
        pipeline.save_pretrained(folder / _run_folder.PIPELINE, overwrite=True)
        _draw_curves(folder)
    return pipeline


def _device(recipe: Recipe) -> torch.device:
    """Return where a recipe trains."""
    return torch.device("cuda" if recipe.training.accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _classes(dataset: DataSet | ImageData) -> dict[str, Any]:
    """Return the names of the classes for the provenance, where they have names."""
    names = dataset.classes if isinstance(dataset, ImageData) else ()
    return {"classes": list(names)} if names else {}


def _networks(learned: nn.Module) -> list[FeatureNetwork]:
    return [part for part in learned.modules() if isinstance(part, FeatureNetwork)]


@contextmanager
def _alone(learned: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Let networks that share their rows evaluate all of them inside the block, where the other ranks do not join."""
    for network in _networks(learned):
        network.share_rows(Ranks())
    try:
        yield
    finally:
        for network in _networks(learned):
            network.share_rows(ranks)


def _prepare_networks(learned: nn.Module, recipe: Recipe, ranks: Ranks) -> None:
    """Let the networks that are learned share their rows, save memory or be compiled, as the recipe says."""
    for network in _networks(learned):
        network.share_rows(ranks)
        if recipe.training.checkpointing:
            network.enable_checkpointing()
        if recipe.training.compile:
            network.enable_compilation()


def _draw_samples(
    recipe: Recipe,
    system: System,
    loss: nn.Module,
    averaged: nn.Module,
    dataset: DataSet | ImageData,
    folder: Path,
    step: int,
) -> None:
    """Save a picture of samples of the average so far; training goes on where that fails."""
    try:
        pipeline = system.pipeline(Trained(recipe, loss, averaged, dataset, preview=True))
        out = pipeline(64, generator=torch.Generator().manual_seed(recipe.evaluation.seed))
        plots.save_samples(out.particles.cpu(), folder / f"step-{step:07d}.png")
    except (DivergedError, InputError, ImportError, OSError) as error:
        log.warning("no picture of step %d: %s", step, error)


def _draw_curves(folder: Path) -> None:
    """Save a picture of what the run logged; the run is good without it."""
    from mmdflow.training import read_log

    try:
        plots.save_curves(read_log(folder), folder / _run_folder.CURVES)
    except (InputError, ImportError, OSError) as error:
        log.warning("no picture of the training: %s", error)


def _provenance() -> dict[str, Any]:
    return {
        "command": " ".join([_program(), *sys.argv[1:]]),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "mmdflow": mmdflow.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "mmdflow" if name == "__main__.py" else name


def _plain(value: Any) -> Any:
    """Return the value with tuples as lists, for YAML and JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
