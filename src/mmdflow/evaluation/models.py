"""Samples of a trained model: drawn in runs, judged against the data that it was trained on, and the report of both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _checks, plots
from mmdflow._files import write_json
from mmdflow.data import DataSet
from mmdflow.errors import InputError
from mmdflow.evaluation.data_judges import report_features, validation_features
from mmdflow.evaluation.samples import evaluate_samples
from mmdflow.methods.base import Pipeline
from mmdflow.metrics import nearest_distances
from mmdflow.recipe.data import judged_data
from mmdflow.recipe.specs import DataSpec


def draw_samples(
    pipeline: Pipeline, num_samples: int, particles_per_run: int, seed: int, progress: bool = False, **settings: Any
) -> tuple[Tensor, int]:
    """Return `num_samples` samples, flowed in runs of `particles_per_run`, and the NFE of a run."""
    _checks.count("num_samples", num_samples)
    generator = torch.Generator().manual_seed(_checks.count("seed", seed, 0))
    sizes = [particles_per_run] * (num_samples // _checks.count("particles_per_run", particles_per_run))
    if num_samples % particles_per_run:
        sizes.append(num_samples % particles_per_run)
    parts, nfe = [], 0
    for size in tqdm(sizes, desc="sample", unit="run", disable=not progress or len(sizes) < 2):
        out = pipeline(size, generator=generator, progress=progress and len(sizes) < 2, **settings)
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
    **settings: Any,
) -> dict[str, Any]:
    """Sample, judge the samples against the data that the pipeline was trained on, and return the report.

    The keys of its figures are those of `mmdflow.evaluation.figures`.

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
        settings: sampler options, as of the pipeline's `__call__`.

    Raises:
        InputError: for a pipeline whose provenance names no data set and recipe.
    """
    data, drawing = _provenance(pipeline)
    dataset = judged_data(data)
    given = {"num_samples": num_samples, "particles_per_run": particles_per_run, "seed": seed}
    drawing = {name: drawing[name] if value is None else value for name, value in given.items()}
    _checks.count("num_samples", drawing["num_samples"], 2)
    start = clock()
    samples, nfe = draw_samples(pipeline, **drawing, progress=progress, **settings)
    seconds = clock() - start
    report = evaluate_samples(
        samples,
        dataset.train,
        dataset.test,
        extractor=validation_features(dataset),
        reports=report_features(dataset),
        seed=drawing["seed"],
    )
    defaults = asdict(pipeline.defaults)
    report |= {
        "data": dataset.source,
        "num_train": len(dataset.train),
        "num_test": len(dataset.test),
        "nfe": nfe,
        "sampler": settings.get("sampler") or defaults["sampler"],
        "settings": {**defaults, **settings},
        "particles_per_run": drawing["particles_per_run"],
        "seed": drawing["seed"],
        "sample_seconds": round(seconds, 3),
        "train_seconds": pipeline.provenance.get("train_seconds"),
        "commit": pipeline.provenance.get("commit"),
    }
    if report_file is not None:
        save_report(report, report_file)
    if grid is not None:
        plots.save_samples(samples[:64] if samples.ndim == 4 else samples, grid)
    if figure is not None:
        _save_figure(samples, dataset, report, figure)
    return report


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON, with nothing that JSON cannot hold."""
    write_json(path, {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in report.items()})


def _provenance(pipeline: Pipeline) -> tuple[DataSpec, dict[str, Any]]:
    """Return the data that a pipeline was trained on, and how its recipe draws samples to be judged."""
    try:
        source, drawing = pipeline.provenance["data"], pipeline.provenance["recipe"]["evaluation"]
        names = [name for name in ("name", "path", "size", "channels") if name in source]
        held_out = source.get("held_out", 0.0)  # older runs trained on all images
        return DataSpec(**{name: source[name] for name in names}, held_out=held_out), drawing
    except (KeyError, TypeError):
        raise InputError(
            "the pipeline's provenance names no data set and recipe: it cannot be evaluated by name"
        ) from None


def _save_figure(samples: Tensor, dataset: DataSet, report: dict[str, Any], path: Path) -> None:
    of_samples, of_test = (nearest_distances(x[:1000], dataset.train) for x in (samples, dataset.test))
    plots.save_report(samples, dataset.test, (of_samples, of_test), report, path)
