"""Models for tables: trained or shipped, sampled, judged by one measure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
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
from mmdflow.methods.dmmd import SamplerSettings
from mmdflow.runs.cache import trained


def walk(own: SamplerSettings, num_levels: int, steps_per_level: int | None = None) -> dict[str, Any]:
    """Return the sampler's settings of a DMMD's walk over other levels and steps than its own, of the same length.

    Constant steps are scaled by the evaluations, so that their sum stays; the distance schedule keeps its sum by itself.

    Args:
        own: the model's settings.
        num_levels: T.
        steps_per_level: N_s; the model's own when None.
    """
    steps = own.steps_per_level if steps_per_level is None else steps_per_level
    settings = {"num_levels": num_levels, "steps_per_level": steps}
    if isinstance(own.step_size, list):
        length = own.steps_per_level * sum(own.step_size)
    elif isinstance(own.step_size, int | float):
        length = own.num_levels * own.steps_per_level * own.step_size
    else:
        return settings
    return settings | {"step_size": length / (num_levels * steps)}


def walk_of(own: SamplerSettings, nfe: int) -> dict[str, Any]:
    """Return the same for a number of evaluations a sample, final steps among them, with the model's steps a level."""
    return walk(own, max(1, (nfe - own.final_steps) // own.steps_per_level))


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
