"""Wiring: from a recipe to objects, to a trained pipeline in a run folder, to its figures."""

from __future__ import annotations

import logging
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from tqdm.auto import tqdm

import mmdflow
from mmdflow import _checks, metrics, plots
from mmdflow._amx import spare_amx
from mmdflow._files import commit, in_use, make_folder, new_file, read_json, write_json
from mmdflow._tensors import out_of_memory
from mmdflow.data import HUB, DataSet
from mmdflow.errors import DivergedError, InputError
from mmdflow.evaluation.report import evaluate_samples
from mmdflow.features import FeatureNetwork
from mmdflow.methods import get_method, load_pipeline
from mmdflow.methods.base import Pipeline, Trained
from mmdflow.recipe.data import ImageData, judged_data, load_data
from mmdflow.recipe.specs import DataSpec, Recipe

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
                pipeline = system.pipeline(Trained(recipe, loss, module.averaged, dataset, preview=True))
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
    trained = Trained(recipe, loss, averaged.eval(), dataset, provenance, progress=progress)
    pipeline = system.pipeline(trained).to("cpu")
    pipeline.save_pretrained(folder / "pipeline", overwrite=True)
    try:
        plots.save_curves(read_log(folder), folder / "curves.png")
    except (InputError, ImportError, OSError) as error:  # a picture is not worth a run
        log.warning("no picture of the training: %s", error)
    return pipeline


def draw_samples(
    pipeline: Pipeline, num_samples: int, particles_per_run: int, seed: int, progress: bool = False, **how: Any
) -> tuple[Tensor, int]:
    """Return `num_samples` samples, flowed in runs of `particles_per_run`, and the NFE of a run."""
    _checks.count("num_samples", num_samples)
    generator = torch.Generator().manual_seed(_checks.count("seed", seed, 0))
    sizes = [particles_per_run] * (num_samples // _checks.count("particles_per_run", particles_per_run))
    if num_samples % particles_per_run:
        sizes.append(num_samples % particles_per_run)
    parts, nfe = [], 0
    for size in tqdm(sizes, desc="sample", unit="run", disable=not progress or len(sizes) < 2):
        out = pipeline(size, generator=generator, progress=progress and len(sizes) < 2, **how)
        parts.append(out.particles.cpu())
        nfe = out.nfe
    return torch.cat(parts), nfe


def evaluate(
    pipeline: Pipeline,
    *,
    num_samples: int | None = None,
    particles_per_run: int | None = None,
    seed: int | None = None,
    report_file: Path | None = None,
    figure: Path | None = None,
    grid: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
    progress: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Sample, judge the samples against the data that the pipeline was trained on, and return the report.

    Args:
        pipeline: a trained pipeline with provenance.
        num_samples: samples drawn; by default the recipe's.
        particles_per_run: particles that flow together; by default the recipe's.
        seed: of samples and tests; by default the recipe's.
        report_file: JSON file to write the report to, before the figure is drawn.
        figure: a picture to draw of the report.
        grid: a picture to draw of the first 64 samples, or of all of points in the plane.
        clock: measures the seconds of sampling.
        progress: show bars.
        how: sampler options, as of the pipeline's `__call__`.
    """
    try:
        source, settings = pipeline.provenance["data"], pipeline.provenance["recipe"]["evaluation"]
        spec = DataSpec(**{name: source[name] for name in ("name", "path", "size", "channels") if name in source})
    except (KeyError, TypeError):
        raise InputError(
            "the pipeline's provenance names no data set and recipe: it cannot be evaluated by name"
        ) from None
    dataset = judged_data(spec)
    asked = {"num_samples": num_samples, "particles_per_run": particles_per_run, "seed": seed}
    settings = {k: settings[k] if v is None else v for k, v in asked.items()}
    start = clock()
    samples, nfe = draw_samples(pipeline, **settings, progress=progress, **how)
    seconds = clock() - start
    classifier = None
    if dataset.train_labels is not None and dataset.test_labels is not None:
        classifier = metrics.train_classifier(dataset.train, dataset.train_labels, dataset.test, dataset.test_labels)
    report = evaluate_samples(samples, dataset.train, dataset.test, classifier=classifier, seed=settings["seed"])
    defaults = asdict(pipeline.defaults)
    report |= {
        "data": dataset.source,
        "num_train": len(dataset.train),
        "num_test": len(dataset.test),
        "nfe": nfe,
        "sampler": how.get("sampler") or defaults["sampler"],
        "settings": {**defaults, **how},
        "particles_per_run": settings["particles_per_run"],
        "seed": settings["seed"],
        "sample_seconds": round(seconds, 3),
        "train_seconds": pipeline.provenance.get("train_seconds"),
        "commit": pipeline.provenance.get("commit"),
    }
    if report_file is not None:
        save_report(report, report_file)
    if grid is not None:
        plots.save_samples(samples[:64] if samples.ndim == 4 else samples, grid)
    if figure is not None:
        samples_to_train, test_to_train = (
            metrics.nearest_distances(x[:1000], dataset.train) for x in (samples, dataset.test)
        )
        plots.save_report(samples, dataset.test, (samples_to_train, test_to_train), report, figure)
    return report


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON, with nothing that JSON cannot hold."""
    write_json(path, {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in report.items()})


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
