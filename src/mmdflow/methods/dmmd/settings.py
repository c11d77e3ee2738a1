"""The settings of DMMD's loss and of its sampler, and the paper's names of samplers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from mmdflow import _checks, _settings
from mmdflow.errors import InputError
from mmdflow.methods._shared.label_dropout import LABEL_DROPOUT, check_label_dropout

#: The paper's samplers (section 5): flow, flow of the final steps, number of final steps.
NAMES: dict[str, tuple[str, str | None, int]] = {
    "dmmd": ("exact", None, 0),
    "a-dmmd": ("approximate", None, 0),
    "a-dmmd-a": ("approximate", "approximate", 2),
    "a-dmmd-e": ("approximate", "exact", 2),
    "dmmd-e": ("exact", "exact", 2),
}
Sampler: TypeAlias = Literal["exact", "approximate"]


@dataclass(frozen=True)
class LossSettings:
    """The loss of DMMD; see `mmdflow.DMMDLoss`.

    Attributes:
        form: penalty (the paper's: an objective against penalties), or path (ours: the MMD under a squared gradient penalty along
            the path from clean to noised events, as a regression).
        objective: mmd, or the lower bound kl (noised from clean) or reverse-kl (clean from noised).
        ridge: lambda of the KL bounds.
        num_levels: noise levels a step, drawn one in each of as many equal strata of [t_min, t_max].
        mmd_weight: weight of the MMD, or of the bound: 1 by default; in the form path, which holds the MMD already, of what is
            added of it, 0 by default.
        unit_weight: weight of the unit-slope penalty mean (|grad f| - 1)^2; of the form penalty.
        l2_weight: weight of the mean squared features.
        diversity_weight: weight of 1 / participation ratio of the clean features within levels, so that they differ (ours);
            for at least 16 features.
        penalty_points: where gradients are taken: segment (uniform from x_0 to x_t), path (segment for one event in
            `segment_every`, x_t for the rest) or interpolate (between clean and noisy samples; of the form penalty).
        segment_every: of the points path, an even number: events for each one whose point is on the segment.
        normalize: divide each level's MMD by its distance sqrt(D) d_t, the MMD^2 that a witness of unit slope can reach.
        pairing: disjoint (clean and noised events differ), paired (each event is both) or shared (paired, cheapest).
        t_min: lowest noise level.
        t_max: highest noise level.
        level_power: levels are t_min + (t_max - t_min) u^level_power with u uniform: below 1 favours high noise.
        by_class: whether all events of a level are of one class, of data with labels, so that the MMD is that of noised from
            clean events of a class (ours). The network is not told classes: only the means of features are of classes.
        label_dropout: share of the levels whose events are of all classes, so that the features hold the witness of all data,
            too, which guidance and samples of no class need; with by_class. Batches draw them.
    """

    form: Literal["penalty", "path"] = "penalty"
    objective: Literal["mmd", "kl", "reverse-kl"] = "mmd"
    ridge: float = 0.0
    num_levels: int = 16
    mmd_weight: float | None = None
    unit_weight: float = 1.0
    l2_weight: float = 0.0
    diversity_weight: float = 0.0
    penalty_points: Literal["segment", "path", "interpolate"] = "path"
    segment_every: int = 2
    normalize: bool = True
    pairing: Literal["disjoint", "paired", "shared"] = "disjoint"
    t_min: float = 0.02
    t_max: float = 1.0
    level_power: float = 1.0
    by_class: bool = False
    label_dropout: float = LABEL_DROPOUT
    #: Stands before a field's name in messages.
    section: ClassVar[str] = ""
    #: Fields of older recipes, with the values that mean what is done now.
    RETIRED: ClassVar[dict[str, Any]] = {"displacement_weight": 0.0, "witness": "mmd2"}

    def __post_init__(self) -> None:
        """Check every field."""
        weights = ("mmd_weight", "unit_weight", "l2_weight", "diversity_weight")
        _settings.check(self, counts=["num_levels"], positive=["level_power"], non_negative=["ridge", *weights])
        if self.ridge and self.objective == "mmd":
            raise InputError(
                f"{self.section}ridge = {self.ridge:g} with {self.section}objective = 'mmd': is for the KL bounds"
            )
        if self.by_class and self.objective != "mmd":
            raise InputError(
                f"{self.section}by_class = True with {self.section}objective = {self.objective!r}: is for the MMD, whose means "
                f"may be those of a class"
            )
        check_label_dropout(self.section, self.label_dropout, self.by_class)
        _checks.even(f"{self.section}segment_every", self.segment_every)
        if self.segment_every != 2 and self.penalty_points != "path":
            raise InputError(
                f"{self.section}segment_every = {self.segment_every} with {self.section}penalty_points = "
                f"{self.penalty_points!r}: is for 'path' alone"
            )
        if self.form == "path":
            self._check_path()
        _checks.interval(f"{self.section}t_min", self.t_min, 0.0, 1.0, "[)")
        _checks.interval(f"{self.section}t_max", self.t_max, self.t_min, 1.0, "(]")

    @property
    def weight_of_mmd(self) -> float:
        """`mmd_weight`, or what it is by default."""
        return float(self.form == "penalty") if self.mmd_weight is None else self.mmd_weight

    def _check_path(self) -> None:
        """Raise InputError for what the path form has nothing for."""
        p = self.section
        for name in ("objective", "unit_weight"):
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default:
                raise InputError(f"{p}{name} = {value!r} with {p}form = 'path': must be left out")
        if self.penalty_points == "interpolate":
            raise InputError(f"{p}penalty_points = 'interpolate' with {p}form = 'path': must be 'segment' or 'path'")


@dataclass(frozen=True)
class SamplerSettings:
    """How a pipeline samples.

    Attributes:
        num_levels: noise levels T, uniform from t_max to t_min.
        steps_per_level: flow steps at each level, N_s; T x N_s is the NFE of Euler steps.
        step_size: a constant eta (the paper), a [list] of one a level, or distance, the distance schedule (ours): one walk back
            along the path. None means distance, too.
        step_scale: factor of the distance schedule.
        sampler: exact (particles interact) or approximate (each on its own). In a call also a name of the paper, which sets the
            final steps too: dmmd, a-dmmd (none), a-dmmd-a, a-dmmd-e, dmmd-e (2 unless given).
        final_steps: denoising steps after the last level (DMMD paper, section 4).
        final_sampler: flow of the final steps, exact or approximate; the sampler's by default.
        final_step_size: eta of the final steps; by default the distance that their level stands for.
        final_level: noise level of the final steps; t_min by default.
        max_slope: bound on a particle's |grad f|, none by default; in a call inf takes it away. Squared-residual features grow
            off the path, and one particle that runs away shifts the mean of all others in the exact flow.
        t_min: lowest noise level; the lowest trained one by default.
        t_max: highest noise level; the highest trained one by default.
        momentum: of the flow, carried from level to level; the distance schedule is shortened by 1 - momentum.
        integrator: name of an integrator that obeys the step size of each level: euler, nesterov, heun, adams_bashforth, or
            one's own. Heun's two evaluations are at one noise level; the second order of Adams and Bashforth is across levels,
            for one evaluation each.
        chunk_size: particles whose gradient is taken at once, all by default. It bounds memory and changes nothing else.
        whitening: lambda of the witness psi^T lambda s (C + lambda s I)^-1 (mean difference). C is the covariance of clean
            features at the level, and s = tr C / K. The plain witness by default, and for inf in a call.
        guidance: weight g of (1 + g) class flow - g unconditional flow, for runs with labels or by_class.
        by_class: where a call gives no labels, the particles are of classes in proportion to the data, and flow to the means of
            their own; needs target means of classes.
        feedback: w >= 1, how much the particles' distance to P_t, the noised data at the level, counts in the exact flow (ours; 1
            is the paper's). The flow is w times that of 1/2 MMD^2 to P / w + (1 - 1 / w) P_t. Final steps have 1, and the
            approximate flow, which would be w = 0, has none.
    """

    num_levels: int = 50
    steps_per_level: int = 1
    step_size: float | list[float] | Literal["distance"] | None = "distance"
    step_scale: float = 1.0
    sampler: Sampler = "exact"
    final_steps: int = 0
    final_sampler: Sampler | None = None
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
    by_class: bool = False
    feedback: float = 1.0
    #: Stands before a field's name in messages.
    section: ClassVar[str] = ""
    #: Fields that infinity switches off in a call.
    unbounded: ClassVar[tuple[str, ...]] = ("whitening", "max_slope")

    def __post_init__(self) -> None:
        """Check every field but the integrator, whose names `check_integrator` knows."""
        p = self.section
        _checks.count(f"{p}final_steps", self.final_steps, 0)
        _settings.check(
            self,
            counts=["num_levels", "steps_per_level", "chunk_size"],
            positive=["step_scale", "final_step_size", "max_slope", "whitening"],
            non_negative=["guidance"],
        )
        if _checks.finite(f"{p}feedback", self.feedback) < 1:
            raise InputError(f"{p}feedback = {self.feedback!r}: must be a finite number >= 1")
        if self.step_size is None:  # in older folders
            object.__setattr__(self, "step_size", "distance")
        _checks.step_sizes(f"{p}step_size", self.step_size, self.num_levels)
        for name in ("final_level", "t_min", "t_max"):
            if (t := getattr(self, name)) is not None:
                _checks.interval(f"{p}{name}", t, 0.0, 1.0)
        if self.t_min is not None and self.t_max is not None and self.t_min > self.t_max:
            raise InputError(f"{p}t_min = {self.t_min!r}: must not be above {p}t_max = {self.t_max!r}")
        _checks.interval(f"{p}momentum", self.momentum, 0.0, 1.0, "[)")

    def changed(self, **changes: Any) -> SamplerSettings:
        """Return the settings with some fields replaced, as a call gives them.

        None leaves a field as it is. A name of the paper as `sampler` sets the final steps too. Infinity for `whitening` or
        `max_slope` switches it off.

        Raises:
            InputError: for a field that there is not, or an impossible value.

        Example:
            >>> settings = SamplerSettings().changed(sampler="a-dmmd-e", num_levels=None)
            >>> settings.sampler, settings.final_sampler, settings.final_steps, settings.num_levels
            ('approximate', 'exact', 2, 50)
        """
        given = {name: value for name, value in changes.items() if value is not None}
        start, sampler = self, str(given.get("sampler", self.sampler)).lower()
        if sampler in NAMES:
            flow, final, steps = NAMES[sampler]
            if given.get("final_sampler", final) != final:
                raise InputError(
                    f"final_sampler = {given['final_sampler']!r} with sampler = {given['sampler']!r}: must be left out; the name "
                    f"sets it"
                )
            del given["sampler"]
            start = replace(self, sampler=flow, final_sampler=final, final_steps=steps)  # type: ignore[arg-type]
        elif "sampler" in given:
            _checks.choice("sampler", given["sampler"], (*get_args(Sampler), *NAMES))
        if isinstance(given.get("step_size"), tuple):
            given["step_size"] = list(given["step_size"])
        switched_off = {name: None for name in self.unbounded if given.get(name) == math.inf}
        given = {name: value for name, value in given.items() if name not in switched_off}
        return replace(_settings.changed(start, given), **switched_off)  # type: ignore[arg-type]
