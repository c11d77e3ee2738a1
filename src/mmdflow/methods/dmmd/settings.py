"""How a pipeline samples: the settings, the paper's names of samplers, and the steps that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.flows.integrators import make_integrator, named_integrators
from mmdflow.methods.dmmd.sampler import SAMPLERS, distance_steps, noise_levels
from mmdflow.noise import Schedule

#: The paper's samplers (section 5): flow, flow of the final steps, number of final steps.
NAMES: dict[str, tuple[str, str | None, int]] = {
    "dmmd": ("exact", None, 0),
    "a-dmmd": ("approximate", None, 0),
    "a-dmmd-a": ("approximate", "approximate", 2),
    "a-dmmd-e": ("approximate", "exact", 2),
    "dmmd-e": ("exact", "exact", 2),
}


@dataclass(frozen=True)
class SamplerDefaults:
    """How a pipeline samples when it is not told otherwise.

    Attributes:
        num_levels: noise levels T, uniform from t_max to t_min.
        steps_per_level: flow steps at each, N_s.
        step_size: a constant eta (the paper), one eta a level, or None for the distance schedule (ours): one walk back along
            the path.
        step_scale: multiplies the distance schedule.
        sampler: "exact" or "approximate".
        final_steps: denoising steps after the last level (DMMD paper, section 4, final denoising).
        final_sampler: "exact", "approximate" or None for the sampler's own.
        final_step_size: eta of the final steps, or None for the distance that their level stands for.
        final_level: noise level of the final steps, or None for t_min.
        max_slope: bound on a particle's |grad f|, or None. Squared-residual features grow off the path; one particle that
            runs away shifts the mean of all others in the exact flow.
        t_min: lowest noise level, or None for the lowest trained one.
        t_max: highest noise level, or None for the highest trained one.
        momentum: of the flow, carried from level to level; the distance schedule is shortened by 1 - momentum.
        integrator: the name of one that obeys the step size of each level. The two evaluations of "heun" are at one noise level;
            the second order of "adams_bashforth" is across levels, for one evaluation each.
        chunk_size: particles whose gradient is taken at once, or None for all. It bounds memory and changes nothing else.
        whitening: lambda of the witness psi^T lambda s (C + lambda s I)^-1 (mean difference), C the covariance of clean
            features at the level and s = tr C / K; None for the plain witness (a run takes infinity for it).
        guidance: weight g of (1 + g) class flow - g unconditional flow, for runs with labels.
    """

    num_levels: int = 50
    steps_per_level: int = 1
    step_size: float | list[float] | None = None
    step_scale: float = 1.0
    sampler: str = "exact"
    final_steps: int = 0
    final_sampler: str | None = None
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
        """Check every field."""
        _checks.count("num_levels", self.num_levels)
        _checks.count("steps_per_level", self.steps_per_level)
        _checks.count("final_steps", self.final_steps, 0)
        _checks.choice("sampler", self.sampler, SAMPLERS)
        allowed = [name for name, kind in named_integrators().items() if kind.obeys_step_size]
        _checks.choice("integrator", self.integrator, allowed)
        _checks.step_sizes("step_size", self.step_size, self.num_levels)
        for name in ("step_scale", "final_step_size", "max_slope"):
            if getattr(self, name) is not None:
                _checks.positive(name, getattr(self, name))
        for name in ("final_level", "t_min", "t_max"):
            if getattr(self, name) is not None:
                _checks.interval(name, getattr(self, name), 0.0, 1.0)
        if self.t_min is not None and self.t_max is not None and self.t_min > self.t_max:
            raise InputError(f"t_min = {self.t_min!r}: must not be above t_max = {self.t_max!r}")
        if self.final_sampler is not None:
            _checks.choice("final_sampler", self.final_sampler, SAMPLERS)
        _checks.interval("momentum", self.momentum, 0.0, 1.0, "[)")
        make_integrator(self.integrator, self.momentum)  # checks that they go together
        if self.chunk_size is not None:
            _checks.count("chunk_size", self.chunk_size)
        if self.whitening is not None:
            _checks.positive("whitening", self.whitening)
        _checks.non_negative("guidance", self.guidance)

    def asked(self, sampler: str | None, **changes: Any) -> SamplerDefaults:
        """Return the settings with what is not None replaced; a paper's name of a sampler sets its final steps too."""
        given = {name: value for name, value in changes.items() if value is not None}
        for name in ("whitening", "max_slope"):  # the plain witness, no bound
            if given.get(name) == math.inf:
                given[name] = None
        if sampler is not None and sampler.lower() in NAMES:
            flow, final, steps = NAMES[sampler.lower()]
            clash = given.get("final_sampler", final) != final
            if clash:
                raise InputError(
                    f"final_sampler = {given['final_sampler']!r} with sampler = {sampler!r}: must be left out; the name sets it"
                )
            given = {"final_steps": steps} | given | {"sampler": flow}
            return replace(replace(self, final_sampler=final), **given)
        if sampler is not None:
            given["sampler"] = _checks.choice("sampler", sampler, (*SAMPLERS, *NAMES))
        return replace(self, **given)

    def plan(self, t_range: tuple[float, float], schedule: Schedule, second_moment: float, event_size: int) -> Plan:
        """Return the levels and step sizes of a run; raise InputError where a level leaves the trained range."""
        low, high = t_range
        for name in ("t_min", "t_max", "final_level"):
            t = getattr(self, name)
            if t is not None and not low - 1e-6 <= t <= high + 1e-6:
                raise InputError(
                    f"{name} = {t!r}: must be in [{low:.4g}, {high:.4g}], the noise levels of the model's target means"
                )
        t_min = low if self.t_min is None else self.t_min
        t_max = high if self.t_max is None else self.t_max
        if t_min > t_max:
            raise InputError(f"t_min = {t_min!r}: must not be above t_max = {t_max!r}")
        levels = noise_levels(self.num_levels, t_min, t_max)
        if self.step_size is None:
            walk = distance_steps(schedule, levels, second_moment, event_size, self.step_scale)
            steps = [eta * (1 - self.momentum) / self.steps_per_level for eta in walk]
        elif isinstance(self.step_size, int | float):
            steps = [float(self.step_size)] * len(levels)
        else:
            steps = [float(eta) for eta in self.step_size]
        final_level = levels[-1] if self.final_level is None else self.final_level
        final = self.final_step_size
        if final is None:
            final = distance_steps(schedule, [final_level], second_moment, event_size)[0]
            if self.final_steps and final <= 0:
                raise InputError(
                    f"final_level = {final_level!r} with final_steps = {self.final_steps}: has steps of size 0; must be above 0, "
                    "or give final_step_size"
                )
        return Plan(levels, steps, final_level, final)


@dataclass(frozen=True)
class Plan:
    """Noise levels of a run, the step size at each, and those of the final steps."""

    levels: list[float]
    step_sizes: list[float]
    final_level: float
    final_step_size: float
