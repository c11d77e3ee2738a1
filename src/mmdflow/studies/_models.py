"""Models for tables: trained or shipped, sampled, judged by one measure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdflow._files import shipped_models
from mmdflow.evaluation import models
from mmdflow.evaluation.distance import DistanceJudge
from mmdflow.methods import load_pipeline
from mmdflow.methods.base import Pipeline
from mmdflow.runs.cache import trained


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
        return {"mean": self.mean, "standard_error": or_none(self.error), "values": self.values, "nfe": self.nfe}

    def __str__(self) -> str:
        """Return mean and standard error."""
        return f"{self.mean:.3g}" + (f" ± {self.error:.2g}" if math.isfinite(self.error) else "")


def measure(
    pipeline: Pipeline, judge: DistanceJudge, *, num_samples: int, draws: int, particles: int, seed: int, **sampler: Any
) -> Measured:
    """Judge `draws` draws of `num_samples` samples, flowed `particles` together; draw i of any model has the same seed."""
    values, shown, nfe = [], torch.empty(0), 0
    rounded_up = math.ceil(num_samples / particles) * particles  # every run has all its particles
    for i in range(draws):
        samples, nfe = models.draw_samples(pipeline, rounded_up, particles, 1000 * seed + i, **sampler)
        values.append(judge(samples[:num_samples]))
        shown = samples[:64] if i == 0 else shown
    return Measured(values, nfe, shown)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; nan for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def lower(a: Measured, b: Measured) -> bool:
    """Return whether a's distance is below b's by more than two standard errors of their paired differences."""
    gains = [y - x for x, y in zip(a.values, b.values, strict=True)]
    error = standard_error(gains)
    return statistics.fmean(gains) > (2 * error if math.isfinite(error) else 0.0)


def or_none(value: float) -> float | None:
    """Return a number as JSON has it: None where there is none."""
    return value if math.isfinite(value) else None
