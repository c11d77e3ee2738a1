"""Wiring: from a recipe to objects, to a trained pipeline in a run folder."""

from __future__ import annotations

import logging
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import mmdflow
from mmdflow import plots
from mmdflow._amx import spare_amx
from mmdflow._files import commit, in_use, make_folder, new_file, read_json, write_json
from mmdflow._tensors import out_of_memory
from mmdflow.data import HUB, DataSet
from mmdflow.errors import DivergedError, InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods import get_method, load_pipeline
from mmdflow.methods.base import Pipeline
from mmdflow.recipe.data import ImageData, load_data
from mmdflow.recipe.specs import Recipe

log = logging.getLogger(__name__)

RECIPE_FILE, PROVENANCE_FILE = "recipe.yaml", "provenance.json"
#: What a run folder may hold; anything else keeps it from being overwritten.
_RUN_FILES = {
    RECIPE_FILE,
    PROVENANCE_FILE,
    *("checkpoints", "logs", "tensorboard", "samples", "pipeline"),
    *("metrics.json", "report.png", "curves.png", "samples.png", "samples.npz", "flow.gif", "flow.mp4"),
}


def build_loss(recipe: Recipe, dataset: DataSet | ImageData) -> nn.Module:
    """Return the loss around a new network, initialised by the recipe's seed."""
    return get_method(recipe.system).make_system().loss(recipe, dataset)


def build_check(recipe: Recipe) -> None:
    """Load the data and evaluate the loss of a recipe once, so that a mistake is told before a folder is made.

    Raises:
        InputError: for settings that do not fit the data or each other.
        ImportError: if something that training needs is not installed.
    """
    if find_spec("lightning") is None:
        raise ImportError("training needs lightning: pip install 'mmdflow[train]'")
    if recipe.training.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("training.accelerator = 'gpu': no CUDA device is there; must be auto or cpu")
    if recipe.training.precision == "bfloat16":
        spare_amx()
    dataset = load_data(recipe.data)
    smallest = recipe.smallest()
    rows = torch.arange(smallest.smallest_batch) % len(dataset.train)
    with torch.no_grad(), told_memory(recipe):
        build_loss(smallest, dataset)(dataset.train[rows], torch.Generator().manual_seed(0))


@contextmanager
def told_memory(recipe: Recipe) -> Iterator[None]:
    """Tell which settings of a recipe take less memory, where its training finds too little."""
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

    Raises:
        InputError: if the folder is in use; only a run with nothing else in it can be overwritten, and only when asked.
    """
    if in_use(folder):
        others = sorted({p.name for p in folder.iterdir()} - _RUN_FILES) if folder.is_dir() else [folder.name]
        if others or not (folder / RECIPE_FILE).is_file():
            what = f"holds {others[0]!r}" if others else "is not a run"
            raise InputError(f"output = {folder}: in use and {what}; choose another folder")
        if not overwrite:
            raise InputError(
                f"output = {folder}: already holds a run; go on with `mmdflow train --resume {folder}`, "
                "or give --overwrite to lose it, or choose another folder"
            )
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    make_folder(folder)
    if recipe.data.path is not None and not recipe.data.path.startswith(HUB):  # a resume may come from elsewhere
        recipe = replace(recipe, data=replace(recipe.data, path=str(Path(recipe.data.path).resolve())))
    with new_file(folder / RECIPE_FILE) as aside:
        aside.write_text(yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False))
    write_json(folder / PROVENANCE_FILE, _provenance())


def train(recipe: Recipe, folder: Path, *, progress: bool = True) -> Pipeline:
    """Train in a run folder made by `open_run`, going on from its checkpoint; leave `pipeline/` there and return it.

    A finished run is returned as it is.
    """
    if (folder / "pipeline").is_dir():
        return load_pipeline(folder / "pipeline")
    from mmdflow.training import LossModule, SampleGrids, TrainOptions, fit, read_log

    origin = read_json(folder / PROVENANCE_FILE) if (folder / PROVENANCE_FILE).exists() else _provenance()
    make_folder(folder / "checkpoints")
    if recipe.training.precision == "bfloat16":
        spare_amx()
    dataset = load_data(recipe.data)
    spec, system = recipe.training, get_method(recipe.system).make_system()
    loss = system.loss(recipe, dataset)
    learned = system.learned(loss)
    if spec.channels_last:
        learned.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = LossModule(
        loss,
        learned,
        step_size=spec.step_size,
        betas=spec.betas,
        weight_decay=spec.weight_decay,
        warmup_steps=spec.warmup_steps,
        max_steps=spec.max_steps,
        max_seconds=spec.max_seconds,
        ema_decay=spec.ema_decay,
        precision=spec.precision,
        seed=spec.seed,
        log_every=spec.log_every,
    )
    for network in (part for part in learned.modules() if isinstance(part, FeatureNetwork)):
        if spec.checkpointing:  # not of the average, which LossModule has copied
            network.enable_checkpointing()
        if spec.compile:
            network.enable_compilation()

    def draw(step: int) -> None:
        try:
            with module.pause():
                pipeline = system.pipeline(recipe, loss, module.averaged, dataset, {}, preview=True)
                out = pipeline(64, generator=torch.Generator().manual_seed(recipe.evaluation.seed))
                plots.save_samples(out.particles.cpu(), folder / "samples" / f"step-{step:07d}.png")
        except (DivergedError, InputError, ImportError, OSError) as error:  # a picture is not worth a run
            log.warning("no picture of step %d: %s", step, error)

    options = TrainOptions(
        batch_size=recipe.batch_size,
        max_steps=spec.max_steps,
        checkpoint_every=spec.checkpoint_every,
        gradient_clip=spec.gradient_clip,
        accelerator=spec.accelerator,
        progress=progress,
    )
    with told_memory(recipe):
        fit(module, dataset.train, folder, options, [SampleGrids(draw, spec.sample_every)])
    provenance = {
        **origin,
        "device": str(module.trained_on),
        "data": {**asdict(recipe.data), "source": dataset.source},
        "steps": module.steps,
        "train_seconds": round(module.seconds, 2),
        "recipe": _plain(asdict(recipe)),
    }
    averaged = module.averaged
    if spec.accelerator != "cpu" and torch.cuda.is_available():  # Lightning has moved it off
        averaged.to("cuda")
    pipeline = system.pipeline(recipe, loss, averaged.eval(), dataset, provenance, progress=progress).to("cpu")
    pipeline.save_pretrained(folder / "pipeline", overwrite=True)
    try:
        plots.save_curves(read_log(folder), folder / "curves.png")
    except (InputError, ImportError, OSError) as error:  # a picture is not worth a run
        log.warning("no picture of the training: %s", error)
    return pipeline


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
