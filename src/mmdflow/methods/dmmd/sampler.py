"""Sampling: one flow whose velocity field goes down the noise levels (DMMD paper, Algorithm 2 and section 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow.divergences import VelocityField
from mmdflow.errors import DivergedError, InputError
from mmdflow.flows import Record, flow
from mmdflow.flows.integrators import make_integrator, named_integrators
from mmdflow.methods.dmmd.conditions import FixedEntries
from mmdflow.methods.dmmd.fields import LevelField, features_at, field_on_features
from mmdflow.methods.dmmd.monitor import Recorder
from mmdflow.methods.dmmd.rise import RiseWarning
from mmdflow.methods.dmmd.settings import SamplerSettings
from mmdflow.methods.dmmd.targets.base import FlowKind, LevelFlow, Target, TargetLevel
from mmdflow.methods.dmmd.walk import Walk
from mmdflow.noise import NoiseConditionalKernel


def sample(
    kernel: NoiseConditionalKernel,
    target: Target,
    particles: Float[Tensor, "n *event"],
    walk: Walk,
    settings: SamplerSettings | None = None,
    *,
    labels: Int[Tensor, " n"] | None = None,
    fixed: FixedEntries | None = None,
    recorder: Recorder | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> tuple[Float[Tensor, "n *event"], int]:
    """Flow down the noise levels, from noise to data; return the particles and the evaluations made (NFE).

    Args:
        kernel: the trained noise-conditional kernel.
        target: the target's mean embeddings (linear base), or samples of it (any base).
        particles: the source, [n, *event], usually N(0, I).
        walk: noise levels and step sizes.
        settings: how to sample. What they say of levels and step sizes is not used: `walk` says it.
        labels: the particles' classes, [n]; each class is a group of its own.
        fixed: entries to keep.
        recorder: takes in what the run looks like; costs no evaluations.
        callback: called after each level with (levels done, particles).

    Raises:
        InputError: for settings that the target has nothing for.
        DivergedError: when particles become non-finite; names the level and holds the last finite particles.
    """
    settings = SamplerSettings() if settings is None else settings
    check_integrator(settings)
    fields = _Fields(kernel, target, settings, labels)
    if settings.final_steps:
        _checks.positive("final_step_size", math.nan if walk.final_step_size is None else walk.final_step_size)
    per_level, kind = settings.steps_per_level, FlowKind(settings.sampler)
    finite = particles if fixed is None else fixed.at(walk.levels[0], particles)
    entered, rise = finite, RiseWarning() if kind.interacting and per_level > 1 else None

    @lru_cache(maxsize=1)
    def field_of_level(i: int) -> LevelField:
        return fields.at(walk.levels[i], kind, recorder, rise, settings.feedback)

    def after_step(step: int, x: Tensor) -> Tensor | None:
        nonlocal entered, finite
        i, ended = (step - 1) // per_level, step % per_level == 0
        advice = f"lower step_size ({walk.step_sizes[i]:g} here) or set max_slope"
        _check_finite(x, finite, walk.levels[i], advice)
        finite = x if fixed is None else fixed.at((*walk.levels, 0.0)[i + ended], x)
        if ended and rise is not None:
            rise.leave(field_of_level(i), entered, walk.levels[i], walk.step_sizes[i], per_level)
            entered = finite
        if ended and callback is not None:
            callback(i + 1, finite)
        return None if fixed is None else finite

    result = flow(
        lambda step: field_of_level(step // per_level),
        finite,
        step_size=lambda step: walk.step_sizes[step // per_level],
        num_steps=len(walk.levels) * per_level,
        momentum=settings.momentum,
        integrator=settings.integrator,
        save_every=Record(evaluate=False),
        callback=after_step,
    )
    if settings.final_steps == 0:
        return result.particles, result.nfe
    x, nfe = _final_steps(fields, walk, result.particles, fixed)
    if callback is not None:
        callback(len(walk.levels) + 1, x)
    return x, result.nfe + nfe


def check_integrator(settings: SamplerSettings) -> None:
    """Raise InputError for an integrator that there is not, that has steps of its own, or does not take the momentum."""
    names = [name for name, kind in named_integrators().items() if kind.obeys_step_size]
    make_integrator(_checks.choice(f"{settings.section}integrator", settings.integrator, names), settings.momentum)


class _Fields:
    """Makes the velocity fields of a run's noise levels."""

    def __init__(
        self, kernel: NoiseConditionalKernel, target: Target, settings: SamplerSettings, labels: Tensor | None
    ) -> None:
        if settings.whitening is not None and not target.whitenable:
            raise InputError(
                f"whitening = {settings.whitening:g}: needs target means with covariances, of a model trained with "
                f"sampling.whitening (in Python: target_means(..., covariances=True))"
            )
        if labels is not None and target.num_classes == 0:
            raise InputError("labels: need target means of classes (target_means(..., labels=...))")
        self.kernel, self.target, self.settings, self.labels = kernel, target, settings, labels

    def at(
        self,
        t: float,
        kind: FlowKind,
        recorder: Recorder | None = None,
        rise: RiseWarning | None = None,
        feedback: float = 1.0,
    ) -> LevelField:
        """Return the field of noise level t, watched by what is given to watch it."""
        settings, level = self.settings, self.target.level(self.kernel, t, self.settings.chunk_size)
        moved = LevelFlow(kind, math.inf if settings.whitening is None else settings.whitening, feedback)
        on_features = field_on_features(
            level, moved, self.labels, num_classes=self.target.num_classes, guidance=settings.guidance
        )
        if recorder is not None:
            recorder.enter(t, settings.max_slope)
        watch = partial(self._watch, level, on_features, recorder, rise)
        return LevelField(
            features_at(self.kernel.features, t),
            on_features,
            interacting=kind.interacting,
            chunk_size=settings.chunk_size,
            max_slope=settings.max_slope,
            watch=None if recorder is None and rise is None else watch,
        )

    def _watch(
        self,
        level: TargetLevel,
        on_features: VelocityField,
        recorder: Recorder | None,
        rise: RiseWarning | None,
        phi: Float[Tensor, "n K"],
        slope: Float[Tensor, " n"],
    ) -> None:
        if recorder is not None:
            recorder.watch(level, self._shares(phi), phi, slope)
        if rise is not None:
            rise.watch(on_features, phi)

    def _shares(self, like: Tensor) -> Float[Tensor, " C"] | None:
        """Return the share of every class among the particles."""
        if self.labels is None:
            return None
        return self.labels.bincount(minlength=self.target.num_classes).to(like) / len(self.labels)


def _final_steps(fields: _Fields, walk: Walk, particles: Tensor, fixed: FixedEntries | None) -> tuple[Tensor, int]:
    """Take the denoising steps after the last level, Euler's; return the particles and the evaluations made."""
    settings = fields.settings
    assert walk.final_step_size is not None
    t, eta = walk.levels[-1] if walk.final_level is None else walk.final_level, walk.final_step_size
    kind = FlowKind(settings.final_sampler or settings.sampler)
    if kind is FlowKind.EXACT and settings.sampler == "approximate":  # a-DMMD-e: particles stay independent
        kind = FlowKind.SINGLE
    finite = particles

    def after_step(step: int, x: Tensor) -> Tensor | None:
        nonlocal finite
        _check_finite(x, finite, t, f"lower final_step_size ({eta:g} here)")
        finite = x if fixed is None else fixed.at(0.0, x)
        return None if fixed is None else finite

    result = flow(
        fields.at(t, kind),
        particles,
        step_size=eta,
        num_steps=settings.final_steps,
        save_every=Record(evaluate=False),
        callback=after_step,
    )
    return result.particles, result.nfe


def _check_finite(x: Tensor, finite: Tensor, t: float, advice: str) -> None:
    if not _checks.all_finite(x):
        raise DivergedError(f"noise level t = {t:.4f}: particles became non-finite: {advice}", finite)
