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

from mmdflow import _checks, metrics, plots
from mmdflow._files import write_json
from mmdflow.errors import InputError
from mmdflow.evaluation.report import evaluate_samples
from mmdflow.methods.base import Pipeline
from mmdflow.recipe.data import judged_data
from mmdflow.recipe.specs import DataSpec


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
