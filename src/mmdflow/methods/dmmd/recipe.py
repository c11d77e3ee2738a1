"""The recipe of DMMD."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from mmdflow import _checks, _settings
from mmdflow.errors import InputError
from mmdflow.methods.dmmd.settings import LossSettings, SamplerSettings
from mmdflow.recipe.specs import BaseSpec, LoopSpec, Recipe


@dataclass(frozen=True)
class LossSpec(LossSettings):
    """The loss of a recipe."""

    section: ClassVar[str] = "loss."


@dataclass(frozen=True)
class TrainingSpec(LoopSpec):
    """The training loop of DMMD.

    Attributes:
        events_per_level: events a noise level has in a step, see loss.pairing; even, at least 4.
    """

    events_per_level: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        if _checks.count("training.events_per_level", self.events_per_level, 4) % 2:
            raise InputError(f"training.events_per_level = {self.events_per_level}: must be even")


@dataclass(frozen=True)
class SamplingSpec(SamplerSettings):
    """What sampling needs from the data, and how the pipeline samples by default.

    Attributes:
        mean_levels: noise levels at which target means are stored; between them they are interpolated.
        mean_noise_repeats: draws of noise an event for the means of noised data.
        mean_events: training events used for the means; all when not given. A short training takes fewer events, draws and
            levels, so that the means take no longer than it did; a warning says so.
        class_means: whether to store target means of every class, for samples of chosen classes; by default where the data have
            labels and every class has an event among those that means are made of.
        num_references: training events kept as references, for base kernels other than linear.
    """

    mean_levels: int = 101
    mean_noise_repeats: int = 4
    mean_events: int | None = None
    class_means: bool | None = None
    num_references: int = 1000
    section: ClassVar[str] = "sampling."

    def __post_init__(self) -> None:
        """Check the numbers besides those of the sampler."""
        super().__post_init__()
        _checks.count("sampling.mean_levels", self.mean_levels, 2)
        _settings.check(self, counts=["mean_noise_repeats", "mean_events", "num_references"])

    def settings(self) -> SamplerSettings:
        """Return the sampler's part."""
        return _settings.part(SamplerSettings, self)


@dataclass(frozen=True)
class DMMDRecipe(Recipe):
    """All of a DMMD run.

    Attributes:
        system: dmmd.
        schedule: the forward diffusion: linear, vp, cosine or ddpm.
        base: the base kernel on features.
        training: the training loop.
        loss: the loss.
        sampling: target means and sampler.
    """

    system: Literal["dmmd"] = "dmmd"
    schedule: Literal["linear", "vp", "cosine", "ddpm"] = "linear"
    base: BaseSpec = field(default_factory=BaseSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    loss: LossSpec = field(default_factory=LossSpec)
    sampling: SamplingSpec = field(default_factory=SamplingSpec)

    def __post_init__(self) -> None:
        """Check what the parts say of each other."""
        for name in ("final_level", "t_min", "t_max"):
            if (t := getattr(self.sampling, name)) is not None:
                _checks.interval(f"sampling.{name}", t, self.loss.t_min, self.loss.t_max)
        if self.sampling.whitening is not None and self.base.name != "linear":
            raise InputError(
                f"sampling.whitening = {self.sampling.whitening!r} with base.name = {self.base.name!r}: must be left out; only "
                f"the linear base has covariances"
            )

    @property
    def batch_size(self) -> int:
        """Events a step: those of every level."""
        return self.training.events_per_level * self.loss.num_levels

    @property
    def smallest_batch(self) -> int:
        """Events with which the loss of `smallest` can be tried: two clean and two noised."""
        return 4

    def smallest(self) -> DMMDRecipe:
        """Return the recipe with one noise level a step."""
        return replace(self, loss=replace(self.loss, num_levels=1))
