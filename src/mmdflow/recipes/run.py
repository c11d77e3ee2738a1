"""Wiring: from a recipe to objects, to a trained pipeline in a run folder, to its figures."""

from __future__ import annotations

import math
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from tqdm.auto import tqdm

import mmdflow
from mmdflow import _checks, data, metrics, plots
from mmdflow._files import in_use, make_folder, new_file, write_json
from mmdflow.dmmd import DMMDLoss, DMMDPipeline, SamplerDefaults, TargetMeans, target_means
from mmdflow.errors import InputError
from mmdflow.features import NETWORKS, FeatureNetwork
from mmdflow.noise import NoiseConditionalKernel, schedule
from mmdflow.recipes.schema import FeaturesSpec, Recipe, SamplingSpec

RECIPE_FILE = "recipe.yaml"


def build_features(spec: FeaturesSpec, event_shape: tuple[int, ...]) -> FeatureNetwork:
    """Return the feature network of a recipe; fields that its kind does not take are refused."""
    given = {k: v for k, v in asdict(spec).items() if v is not None and k != "network"}
    network = NETWORKS[spec.network]
    allowed = set(network.__init__.__annotations__)
    for name in given:
        if name not in allowed:
            raise InputError(f"features.{name} = {given[name]!r}: not a field of the {spec.network} network")
    return network(event_shape, **given)


def load_data(recipe: Recipe) -> data.DataSet:
    """Return the data of a recipe, scaled as it says."""
    dataset = data.load(recipe.data.name, recipe.data.path)
    scale = recipe.data.scale
    return dataset if scale == 1 else replace(dataset, train=dataset.train * scale, test=dataset.test * scale)


def build_loss(recipe: Recipe, dataset: data.DataSet) -> DMMDLoss:
    """Return the loss around a new network, initialised by the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        kernel = NoiseConditionalKernel(build_features(recipe.features, dataset.event_shape))
    return DMMDLoss(kernel, schedule(recipe.schedule), second_moment=dataset.second_moment, **asdict(recipe.loss))


def build_check(recipe: Recipe) -> None:
    """Build the data and the loss of a recipe once, so that a mistake is told before a folder is made."""
    build_loss(recipe, load_data(recipe))


def open_run(recipe: Recipe, folder: Path, *, overwrite: bool = False) -> None:
    """Make a run folder that holds the recipe.

    Raises:
        InputError: if the folder is in use; only a run can be overwritten, and only when asked.
    """
    if in_use(folder):
        if not (folder / RECIPE_FILE).is_file():
            raise InputError(f"output = {folder}: in use by something that is not a run; choose another folder")
        if not overwrite:
            raise InputError(
                f"output = {folder}: already holds a run; go on with `mmdflow train --resume {folder}`, "
                "or give --overwrite to lose it, or choose another folder"
            )
        shutil.rmtree(folder)
    make_folder(folder)
    make_folder(folder / "checkpoints")
    with new_file(folder / RECIPE_FILE) as aside:
        aside.write_text(yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False))


def train(recipe: Recipe, folder: Path, *, progress: bool = True) -> DMMDPipeline:
    """Train in a run folder made by `open_run`, going on from its checkpoint; leave `pipeline/` there and return it."""
    from mmdflow.training import LossModule, SampleGrids, TrainOptions, fit

    dataset = load_data(recipe)
    spec = recipe.training
    loss = build_loss(recipe, dataset)
    module = LossModule(
        loss,
        loss.kernel,
        step_size=spec.step_size,
        betas=spec.betas,
        weight_decay=spec.weight_decay,
        warmup_steps=spec.warmup_steps,
        max_steps=spec.max_steps,
        ema_decay=spec.ema_decay,
        seed=spec.seed,
        log_every=spec.log_every,
    )
    averaged = module.ema.module
    assert isinstance(averaged, NoiseConditionalKernel)

    def draw(step: int) -> None:
        quick = SamplingSpec(
            mean_levels=21, mean_noise_repeats=1, mean_events=1000, num_levels=20, sampler="approximate"
        )
        pipeline = _pipeline(recipe, loss, averaged, dataset, quick, {})
        out = pipeline(64, generator=torch.Generator().manual_seed(recipe.evaluation.seed))
        plots.save_samples(out.particles.cpu(), folder / "samples" / f"step-{step:07d}.png")

    options = TrainOptions(
        batch_size=spec.events_per_level * recipe.loss.num_levels,
        max_steps=spec.max_steps,
        checkpoint_every=spec.checkpoint_every,
        gradient_clip=spec.gradient_clip,
        accelerator=spec.accelerator,
        progress=progress,
    )
    every = spec.sample_every
    fit(module, dataset.train, folder, options, [SampleGrids(draw, every)])
    provenance = {
        **_provenance(),
        "data": {"name": dataset.name, "path": recipe.data.path, "source": dataset.source},
        "steps": spec.max_steps,
        "train_seconds": round(module.elapsed() if module._trainer else module.seconds, 2),
        "recipe": _plain(asdict(recipe)),
    }
    pipeline = _pipeline(recipe, loss, averaged, dataset, recipe.sampling, provenance, progress)
    pipeline.save_pretrained(folder / "pipeline", overwrite=True)
    return pipeline


def _pipeline(
    recipe: Recipe,
    loss: DMMDLoss,
    averaged: NoiseConditionalKernel,
    dataset: data.DataSet,
    spec: SamplingSpec,
    provenance: dict[str, Any],
    progress: bool = False,
) -> DMMDPipeline:
    """Return the pipeline of the averaged weights, with target means computed now."""
    training = averaged.training
    averaged.eval()
    events = dataset.train[: spec.mean_events]
    levels = torch.linspace(loss.t_min, loss.t_max, spec.mean_levels)
    with tqdm(total=len(events), desc="target means", unit="event", disable=not progress) as bar:
        means: TargetMeans = target_means(
            averaged,
            loss.schedule,
            _batches(events.to(next(averaged.parameters()).device)),
            levels,
            noise_repeats=spec.mean_noise_repeats,
            generator=torch.Generator().manual_seed(recipe.training.seed),
            callback=lambda count: bar.update(count - bar.n),
        )
    averaged.train(training)
    names = SamplerDefaults.__dataclass_fields__
    defaults = SamplerDefaults(**{k: v for k, v in asdict(spec).items() if k in names})
    return DMMDPipeline(
        averaged, loss.schedule, recipe.schedule, means, loss.second_moment, recipe.data.scale, defaults, provenance
    )


def _batches(events: Tensor, size: int = 1024) -> Iterator[Tensor]:
    yield from events.split(size)


def draw_samples(
    pipeline: DMMDPipeline, num_samples: int, particles_per_run: int, seed: int, progress: bool = False, **how: Any
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
    pipeline: DMMDPipeline,
    *,
    num_samples: int | None = None,
    particles_per_run: int | None = None,
    seed: int | None = None,
    figure: Path | None = None,
    progress: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Sample, judge the samples against the data that the pipeline was trained on, and return the report.

    Args:
        pipeline: a trained pipeline with provenance.
        num_samples: samples drawn; by default the recipe's.
        particles_per_run: particles that flow together; by default the recipe's.
        seed: of samples and tests; by default the recipe's.
        figure: a picture to draw of the report.
        progress: show bars.
        how: sampler options, as of `DMMDPipeline.__call__`.
    """
    if "data" not in pipeline.provenance:
        raise InputError("the pipeline's provenance names no data set: it cannot be evaluated by name")
    source = pipeline.provenance["data"]
    dataset = data.load(source["name"], source["path"])
    settings = pipeline.provenance["recipe"]["evaluation"]
    asked = {"num_samples": num_samples, "particles_per_run": particles_per_run, "seed": seed}
    settings = {k: settings[k] if v is None else v for k, v in asked.items()}
    start = time.perf_counter()
    samples, nfe = draw_samples(pipeline, **settings, progress=progress, **how)
    seconds = time.perf_counter() - start
    classifier = None
    if dataset.train_labels is not None and dataset.test_labels is not None:
        classifier = metrics.train_classifier(dataset.train, dataset.train_labels, dataset.test, dataset.test_labels)
    report = metrics.evaluate_samples(
        samples, dataset.train, dataset.test, classifier=classifier, seed=settings["seed"]
    )
    defaults = asdict(pipeline.defaults)
    report |= {
        "data": dataset.source,
        "nfe": nfe,
        "sampler": how.get("sampler") or defaults["sampler"],
        "particles_per_run": settings["particles_per_run"],
        "seed": settings["seed"],
        "sample_seconds": round(seconds, 3),
        "train_seconds": pipeline.provenance.get("train_seconds"),
        "commit": pipeline.provenance.get("commit"),
    }
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
        "command": " ".join(["mmdflow", *sys.argv[1:]]),
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "mmdflow": mmdflow.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Return the commit of the checkout that the package runs from, with -dirty if it differs; None elsewhere."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _plain(value: Any) -> Any:
    """Return the value with tuples as lists, for YAML and JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
