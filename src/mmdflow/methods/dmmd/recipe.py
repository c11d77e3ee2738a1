"""The recipe of DMMD."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.recipe.specs import BaseSpec, LoopSpec, Recipe


@dataclass(frozen=True)
class LossSpec:
    """The loss of DMMD; see `mmdflow.DMMDLoss`.

    Attributes:
        objective: mmd, or the lower bound kl (noised from clean) or reverse-kl (clean from noised).
        witness: whose gradient is penalised and followed: of mmd2 (the paper), or of mmd, which has the same norm at every level.
        ridge: lambda of the KL bounds.
        num_levels: noise levels a step.
        mmd_weight: weight of the MMD, or of the bound.
        unit_weight: weight of the unit-slope penalty (the paper's).
        displacement_weight: weight of the displacement penalty (ours).
        l2_weight: weight of the mean squared features.
        penalty_points: path (x_t, and points between x_0 and x_t), interpolate (between clean and noisy samples), noisy (x_t) or
            ends (x_t, and x_0 for one event in 32).
        normalize: divide each level's MMD by its distance.
        pairing: disjoint (clean and noised events differ), paired (each event is both) or shared (paired, cheapest).
        t_min: lowest noise level.
        t_max: highest noise level.
        level_power: below 1 draws more high noise levels, 1 uniform ones.
    """

    objective: Literal["mmd", "kl", "reverse-kl"] = "mmd"
    witness: Literal["mmd2", "mmd"] = "mmd2"
    ridge: float = 0.0
    num_levels: int = 16
    mmd_weight: float = 1.0
    unit_weight: float = 1.0
    displacement_weight: float = 0.0
    l2_weight: float = 0.0
    penalty_points: Literal["path", "interpolate", "noisy", "ends"] = "path"
    normalize: bool = True
    pairing: Literal["disjoint", "paired", "shared"] = "disjoint"
    t_min: float = 0.02
    t_max: float = 1.0
    level_power: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers, and what they say of each other."""
        if self.witness != "mmd2" and self.objective != "mmd":
            raise InputError(
                f"loss.witness = {self.witness!r} with loss.objective = {self.objective!r}: must be left out"
            )
        _checks.count("loss.num_levels", self.num_levels)
        for name in ("ridge", "mmd_weight", "unit_weight", "displacement_weight", "l2_weight"):
            _checks.non_negative(f"loss.{name}", getattr(self, name))
        _checks.positive("loss.level_power", self.level_power)
        _checks.interval("loss.t_min", self.t_min, 0.0, 1.0, "[)")
        _checks.interval("loss.t_max", self.t_max, self.t_min, 1.0, "(]")


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
class SamplingSpec:
    """What sampling needs from the data, and how the pipeline samples by default.

    Attributes:
        mean_levels: noise levels at which target means are stored; between them they are interpolated.
        mean_noise_repeats: draws of noise an event for the means of noised data.
        mean_events: training events used for the means; all when not given.
        class_means: whether to store target means of every class, for samples of asked classes.
        num_references: training events kept as references, for base kernels other than linear.
        num_levels: noise levels of a sampling run.
        steps_per_level: flow steps a level.
        step_size: a constant step (the paper), a list of one a level, or not given for the distance schedule (ours).
        step_scale: multiplies the distance schedule.
        sampler: exact or approximate.
        final_steps: denoising steps at the end.
        final_sampler: flow of the final steps.
        final_step_size: step of the final steps.
        final_level: noise level of the final steps; the lowest by default.
        max_slope: bound on a particle's |grad f|; none by default.
        t_min: lowest noise level of a run; the lowest trained one by default.
        t_max: highest noise level of a run; the highest trained one by default.
        momentum: of the flow.
        integrator: the name of one that obeys the step size of each level, such as euler or adams_bashforth.
        chunk_size: particles whose gradient is taken at once; all by default.
        whitening: lambda of the whitened witness, for which covariances are stored; the plain witness by default.
        guidance: weight of a class's flow over that of all data, for runs with labels.
    """

    mean_levels: int = 101
    mean_noise_repeats: int = 4
    mean_events: int | None = None
    class_means: bool = False
    num_references: int = 1000
    num_levels: int = 50
    steps_per_level: int = 1
    step_size: float | list[float] | None = None
    step_scale: float = 1.0
    sampler: Literal["exact", "approximate"] = "exact"
    final_steps: int = 0
    final_sampler: Literal["exact", "approximate"] | None = None
    final_step_size: float | None = None
    final_level: float | None = None
    max_slope: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    momentum: float = 0.0
    integrator: str = "euler"
    chunk_size: int | None = None
    whitening: float | None = None
    guidance: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.count("sampling.mean_levels", self.mean_levels, 2)
        _checks.count("sampling.final_steps", self.final_steps, 0)
        for name in (
            "mean_noise_repeats",
            "mean_events",
            "num_references",
            "num_levels",
            "steps_per_level",
            "chunk_size",
        ):
            if getattr(self, name) is not None:
                _checks.count(f"sampling.{name}", getattr(self, name))
        for name in ("step_scale", "final_step_size", "max_slope", "whitening"):
            if getattr(self, name) is not None:
                _checks.positive(f"sampling.{name}", getattr(self, name))
        _checks.step_sizes("sampling.step_size", self.step_size, self.num_levels)
        for name in ("final_level", "t_min", "t_max"):
            if getattr(self, name) is not None:
                _checks.interval(f"sampling.{name}", getattr(self, name), 0.0, 1.0)
        _checks.interval("sampling.momentum", self.momentum, 0.0, 1.0, "[)")
        _checks.non_negative("sampling.guidance", self.guidance)


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
        if self.loss.witness == "mmd" and self.base.name != "linear":
            raise InputError(
                f"loss.witness = 'mmd' with base.name = {self.base.name!r}: must be mmd2, or base.name linear"
            )
        if self.sampling.whitening is not None and self.base.name != "linear":
            raise InputError(
                f"sampling.whitening = {self.sampling.whitening!r} with base.name = {self.base.name!r}: must be left out; only "
                f"the linear base has covariances"
            )

    @property
    def batch_size(self) -> int:  # noqa: D102
        return self.training.events_per_level * self.loss.num_levels

    @property
    def smallest_batch(self) -> int:  # noqa: D102
        return 4

    def smallest(self) -> DMMDRecipe:  # noqa: D102
        return replace(self, loss=replace(self.loss, num_levels=1))
