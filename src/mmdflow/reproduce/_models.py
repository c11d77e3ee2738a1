"""Models for tables: trained or shipped, sampled, judged by one measure."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdflow import metrics
from mmdflow._files import shipped_models
from mmdflow.errors import InputError
from mmdflow.metrics import eight_bits, frechet_distance, sliced_w2
from mmdflow.recipes import DataSpec, run
from mmdflow.recipes.data import judged_data
from mmdflow.recipes.runs import trained
from mmdflow.recipes.systems import Pipeline, load_pipeline

log = logging.getLogger(__name__)


def paper_recipe(
    unit_weight: float, step_size: float, features: Mapping[str, Any] | None = None, **training: Any
) -> dict[str, Any]:
    """Return the paper's recipe in our terms, as changes of ours; with those of its trunk and training that are given.

    Flat features, unit penalty at interpolates, VP path, plain MMD of disjoint halves, uniform levels, no final steps. The
    weight of the penalty, the step size of the optimiser and the number of features are ours; the weight grows as the MMD^2 that
    unit slope can reach, the root of the number of entries. So is the walk of the sampler: the distance schedule and the
    recipe's bound on the slope, where the paper has a constant step size, which is not at hand for these data.
    """
    return {
        "schedule": "vp",
        "features": {"head": "flat", "num_features": 128, "gradient": "full", **(features or {})},
        "loss": {
            "witness": "mmd2",
            "mmd_weight": 1.0,
            "unit_weight": unit_weight,
            "displacement_weight": 0.0,
            "penalty_points": "interpolate",
            "pairing": "disjoint",
            "normalize": False,
            "level_power": 1.0,
        },
        "training": {"step_size": step_size, **training},
        "sampling": {"final_steps": 0, "final_sampler": None, "final_step_size": None, "final_level": None},
    }


def own_or_shipped(
    data: str, runs: Path, *, seed: int, progress: bool, seconds: float | None = None
) -> tuple[Pipeline, str]:
    """Return DMMD's model of a data set, and where it is from: the shipped one, or one trained by the recipe."""
    if data in shipped_models():
        return load_pipeline(data), f"shipped model {data}"
    pipeline = trained(f"dmmd-{data}", runs, seed=seed, progress=progress, seconds=seconds)
    return pipeline, f"trained by dmmd-{data}" + ("" if seconds is None else f" for {seconds:g} s")


class Judge:
    """The distance of samples to a data set's training images, after rounding to 8 bits.

    With labels it is the Frechet distance (FD) in the features of the data's own classifier, without them the sliced W_2 of the
    entries. Neither is FID. Images of an image set are `mmdflow.recipes.data.JUDGED` at most, always the same.

    Args:
        data: name of the data set.
    """

    def __init__(self, data: str) -> None:
        dataset = judged_data(DataSpec(data))
        self.data, self.test, self._train = data, dataset.test, eight_bits(dataset.train)
        self._classifier = self._features = None
        if dataset.train_labels is not None and dataset.test_labels is not None:
            self._classifier = metrics.train_classifier(
                dataset.train, dataset.train_labels, dataset.test, dataset.test_labels
            )
            self._features = self._classifier.features(self._train)

    @property
    def unit(self) -> str:
        """What the distance is."""
        return f"{self.data}, FD" if self._classifier is not None else f"{self.data}, sliced W_2"

    @property
    def name(self) -> str:
        """What measures."""
        return "sliced W_2 of the entries" if self._classifier is None else self._classifier.name

    def __call__(self, samples: Tensor) -> float:
        """Return the distance of samples."""
        x = eight_bits(samples.cpu())
        if self._classifier is None or self._features is None:
            return sliced_w2(x, self._train, generator=torch.Generator().manual_seed(0))
        return frechet_distance(self._classifier.features(x), self._features)

    def held_out(self, count: int) -> float:
        """Return the distance of as many held-out images, where there are so many."""
        return self(self.test[:count])


def open_judges(data: Sequence[str]) -> tuple[dict[str, Judge], str]:
    """Return the judges of data sets whose files are there, and a sentence that names the others; empty if there are none.

    Raises:
        InputError: if the files of all data sets are missing.
    """
    judges: dict[str, Judge] = {}
    missing: dict[str, str] = {}
    for name in data:
        try:
            judges[name] = Judge(name)
        except InputError as error:
            missing[name] = str(error)
    if not judges:
        raise InputError("; ".join(missing.values()))
    for name, why in missing.items():
        log.warning("left out: %s: %s", name, why)  # before hours of training, not after them
    return judges, f" Left out, their files are missing: {', '.join(missing)}." if missing else ""


@dataclass(frozen=True)
class Measured:
    """Distances of independent draws of samples.

    Attributes:
        values: one a draw.
        nfe: evaluations a sample.
        samples: a few of the first draw.
    """

    values: list[float]
    nfe: int
    samples: Tensor

    @property
    def mean(self) -> float:
        """Mean over the draws."""
        return statistics.fmean(self.values)

    @property
    def error(self) -> float:
        """Standard error of the mean; nan for one draw."""
        return standard_error(self.values)

    @property
    def bar(self) -> float:
        """Two standard errors, for an error bar; 0 for one draw."""
        return 2 * self.error if math.isfinite(self.error) else 0.0

    @property
    def plain(self) -> dict[str, Any]:
        """As plain numbers."""
        return {"mean": self.mean, "standard_error": _or_none(self.error), "values": self.values, "nfe": self.nfe}

    def __str__(self) -> str:
        """Return mean and standard error."""
        return f"{self.mean:.3g}" + (f" ± {self.error:.2g}" if math.isfinite(self.error) else "")


def measure(
    pipeline: Pipeline, judge: Judge, *, num_samples: int, draws: int, particles: int, seed: int, **how: Any
) -> Measured:
    """Judge `draws` draws of `num_samples` samples, flowed `particles` together; draw i of any model has the same seed."""
    values, shown, nfe = [], torch.empty(0), 0
    whole = math.ceil(num_samples / particles) * particles  # every run has all its particles
    for i in range(draws):
        samples, nfe = run.draw_samples(pipeline, whole, particles, 1000 * seed + i, **how)
        values.append(judge(samples[:num_samples]))
        shown = samples[:64] if i == 0 else shown
    return Measured(values, nfe, shown)


def table_figures(
    asked: Sequence[str],
    judges: Mapping[str, Judge],
    held_out: Mapping[str, float],
    rows: Mapping[str, Mapping[str, Measured]],
) -> dict[str, Any]:
    """Return what every table keeps, in plain types: the judges, held-out images' distances, the rows, and what was left out."""
    return {
        "judges": {name: judge.name for name, judge in judges.items()},
        "held_out": dict(held_out),
        "rows": {name: {row: measured.plain for row, measured in found.items()} for name, found in rows.items()},
        "left_out": [name for name in asked if name not in judges],
    }


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; nan for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def lower(a: Measured, b: Measured) -> bool:
    """Return whether a's distance is below b's by more than two standard errors of their paired differences."""
    gains = [y - x for x, y in zip(a.values, b.values, strict=True)]
    error = standard_error(gains)
    return statistics.fmean(gains) > (2 * error if math.isfinite(error) else 0.0)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
