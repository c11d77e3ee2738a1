"""The walk of a sampling run: its noise levels, from noise to data, and the step size at each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.methods.dmmd.settings import SamplerSettings
from mmdflow.noise import Schedule


@dataclass(frozen=True)
class Walk:
    """Noise levels of a run, the step size at each, and those of the final steps.

    Attributes:
        levels: noise levels, from high to low.
        step_sizes: eta at each level, shared by its steps.
        final_level: noise level of the final steps; the last one by default.
        final_step_size: eta of the final steps; needed if there are any.
    """

    levels: Sequence[float]
    step_sizes: Sequence[float]
    final_level: float | None = None
    final_step_size: float | None = None

    def __post_init__(self) -> None:
        """Check that there is one step size a level."""
        if len(self.levels) != len(self.step_sizes) or not self.levels:
            raise InputError(
                f"step_sizes has {len(self.step_sizes)} entries: must have {len(self.levels)}, one a level (at least one)"
            )

    @classmethod
    def of(
        cls,
        settings: SamplerSettings,
        *,
        t_range: tuple[float, float],
        schedule: Schedule,
        second_moment: float,
        event_size: int,
    ) -> Walk:
        """Return the walk that settings describe.

        Args:
            settings: of the sampler.
            t_range: the lowest and the highest noise level that the target knows.
            schedule: the forward diffusion.
            second_moment: mean square of the data's entries.
            event_size: entries of an event, D.

        Raises:
            InputError: where a level leaves `t_range`, or final steps would have size 0.
        """
        t_min, t_max = _ends(settings, t_range)
        levels = noise_levels(settings.num_levels, t_min, t_max)
        if isinstance(settings.step_size, list):
            steps = [float(eta) for eta in settings.step_size]
        elif isinstance(settings.step_size, int | float):
            steps = [float(settings.step_size)] * len(levels)
        else:
            distances = distance_steps(schedule, levels, second_moment, event_size, settings.step_scale)
            steps = [eta * (1 - settings.momentum) / settings.steps_per_level for eta in distances]
        final_level = levels[-1] if settings.final_level is None else settings.final_level
        final = settings.final_step_size
        if final is None:
            final = distance_steps(schedule, [final_level], second_moment, event_size)[0]
            if settings.final_steps and final <= 0:
                raise InputError(
                    f"final_level = {final_level!r} with final_steps = {settings.final_steps}: has steps of size 0; must be "
                    "above 0, or give final_step_size"
                )
        return cls(levels, steps, final_level, final)


def noise_levels(num_levels: int, t_min: float, t_max: float) -> list[float]:
    """Return `num_levels` uniform noise levels from t_max down to t_min; a single one is t_max."""
    return torch.linspace(t_max, t_min, _checks.count("num_levels", num_levels), dtype=torch.float64).tolist()


def distance_steps(
    schedule: Schedule, levels: Sequence[float], second_moment: float, event_size: int, scale: float = 1.0
) -> list[float]:
    """Return the step size of each level that walks the forward path back once at unit slope. Ours.

    eta_i = scale sqrt(D) (d_i - d_{i+1}), d_i the root mean square entry of x_t - x_0 at level i and 0 after the last one.

    Args:
        schedule: the forward diffusion.
        levels: noise levels, from high to low.
        second_moment: mean square of the data's entries.
        event_size: entries of an event, D.
        scale: factor of all steps.

    Example:
        >>> from mmdflow import LinearSchedule
        >>> steps = distance_steps(LinearSchedule(), [1.0, 0.5], second_moment=1.0, event_size=2)
        >>> [round(step, 6) for step in steps]
        [1.0, 1.0]
    """
    distance = schedule.displacement(torch.tensor([*levels], dtype=torch.float64), second_moment)
    steps = distance - torch.cat([distance[1:], distance.new_zeros(1)])
    return (scale * math.sqrt(event_size) * steps).tolist()


def _ends(settings: SamplerSettings, t_range: tuple[float, float]) -> tuple[float, float]:
    """Return the lowest and the highest level of a run."""
    low, high = t_range
    for name in ("t_min", "t_max", "final_level"):
        t = getattr(settings, name)
        if t is not None and not low - 1e-6 <= t <= high + 1e-6:
            raise InputError(
                f"{name} = {t!r}: must be in [{low:.4g}, {high:.4g}], the noise levels of the model's target means"
            )
    t_min = low if settings.t_min is None else settings.t_min
    t_max = high if settings.t_max is None else settings.t_max
    if t_min > t_max:
        raise InputError(f"t_min = {t_min!r}: must not be above t_max = {t_max!r}")
    return t_min, t_max
