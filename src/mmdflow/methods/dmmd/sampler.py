"""Sampling: one flow whose divergence goes down the noise levels (DMMD paper, Algorithm 2 and section 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow.divergences import Divergence
from mmdflow.errors import DivergedError, InputError
from mmdflow.flows import flow
from mmdflow.methods.dmmd.conditions import Known
from mmdflow.methods.dmmd.monitor import Recorder
from mmdflow.methods.dmmd.targets.base import LevelDivergence, features_at, level_flow
from mmdflow.methods.dmmd.targets.means import TargetMeans
from mmdflow.methods.dmmd.targets.samples import TargetSamples
from mmdflow.methods.dmmd.targets.witness import TargetWitness
from mmdflow.noise import NoiseConditionalKernel, Schedule

SAMPLERS = ("exact", "approximate")


def noise_levels(num_levels: int, t_min: float, t_max: float) -> list[float]:
    """Return `num_levels` uniform noise levels from t_max down to t_min (only t_max when one is asked for)."""
    return torch.linspace(t_max, t_min, _checks.count("num_levels", num_levels), dtype=torch.float64).tolist()


def distance_steps(
    schedule: Schedule, levels: Sequence[float], second_moment: float, event_size: int, scale: float = 1.0
) -> list[float]:
    """Return the step size of each level that walks the forward path back once at unit slope. Ours.

    eta_i = scale sqrt(D) (d_i - d_{i+1}), d_i the root mean square entry of x_t - x_0 at level i and 0 after the last one.
    """
    distance = schedule.displacement(torch.tensor([*levels], dtype=torch.float64), second_moment)
    steps = distance - torch.cat([distance[1:], distance.new_zeros(1)])
    return (scale * math.sqrt(event_size) * steps).tolist()


class _Descent(Divergence):
    """The divergence of the level that a run has reached; a callback of the flow moves it on."""

    def __init__(self, make: Callable[[float], LevelDivergence], event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.make, self.event_shape = make, event_shape
        self.level = math.nan

    def enter(self, t: float) -> None:
        self.level, self.here = t, self.make(t)

    def velocity(self, x: Tensor, at: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        return self.here.velocity(x, at, weights)


def sample(
    kernel: NoiseConditionalKernel,
    target: TargetMeans | TargetSamples | TargetWitness,
    particles: Float[Tensor, "n *event"],
    *,
    levels: Sequence[float],
    step_sizes: Sequence[float],
    steps_per_level: int = 1,
    sampler: str = "exact",
    final_steps: int = 0,
    final_sampler: str | None = None,
    final_step_size: float | None = None,
    final_level: float | None = None,
    max_slope: float | None = None,
    momentum: float = 0.0,
    integrator: str = "euler",
    chunk_size: int | None = None,
    whitening: float | None = None,
    labels: Int[Tensor, " n"] | None = None,
    guidance: float = 0.0,
    known: Known | None = None,
    recorder: Recorder | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> tuple[Float[Tensor, "n *event"], int]:
    """Flow down the noise levels, from noise to data; return the particles and the evaluations made (NFE).

    Args:
        kernel: the trained noise-conditional kernel.
        target: the target's mean embeddings (linear base), or samples of it (any base).
        particles: the source, [n, *event], usually N(0, I).
        levels: noise levels, from high to low.
        step_sizes: eta at each level, shared by its steps.
        steps_per_level: N_s.
        sampler: "exact" (particles interact) or "approximate" (each on its own).
        final_steps: denoising steps after the last level, explicit Euler's.
        final_sampler: the flow of the final steps: "approximate", or "exact": with all particles after the exact sampler
            (DMMD-e), with each particle on its own after the approximate one (a-DMMD-e). Default: the sampler's.
        final_step_size: eta of the final steps; needed if there are any.
        final_level: noise level of the final steps; the last one by default.
        max_slope: bound on a particle's |grad f|; longer gradients are shortened to it.
        momentum: of the flow; what is left of it goes on from level to level.
        integrator: of the flow; both evaluations of "heun" are at the level that the step starts at, while "adams_bashforth"
            carries the gradient on from level to level.
        chunk_size: particles whose gradient is taken at once. It changes nothing but memory, and the exact flow's time, which
            then embeds the particles once more, without gradients, for their mean.
        whitening: lambda of the regularised witness; needs the target's covariances.
        labels: the particles' classes, [n]; each class is a group of its own.
        guidance: weight of the class's flow over that of all data.
        known: entries to keep, see `Known`.
        recorder: takes in what the run looks like; costs no evaluations.
        callback: called after each level with (levels done, particles).

    Raises:
        DivergedError: when particles become non-finite; names the level and holds the last finite particles.
    """
    _checks.choice("sampler", sampler, SAMPLERS)
    final = _checks.choice("final_sampler", final_sampler or sampler, SAMPLERS)
    _checks.count("steps_per_level", steps_per_level)
    _checks.count("final_steps", final_steps, 0)
    if len(levels) != len(step_sizes) or not levels:
        raise InputError(
            f"step_sizes has {len(step_sizes)} entries: must have {len(levels)}, one a level (at least one)"
        )
    if final_steps:
        _checks.positive("final_step_size", math.nan if final_step_size is None else final_step_size)
    lam = math.inf if whitening is None else whitening
    if math.isfinite(lam) and not target.whitenable:
        raise InputError(
            f"whitening = {lam:g}: needs target means with covariances, of a model trained with sampling.whitening "
            f"(in Python: target_means(..., covariances=True))"
        )
    classes = target.num_classes
    if labels is not None and classes == 0:
        raise InputError("labels: need target means of classes (target_means(..., labels=...))")
    shares = None if labels is None else labels.bincount(minlength=classes).to(particles) / len(labels)

    def divergence(t: float, kind: str, watched: Recorder | None) -> LevelDivergence:
        here = target.level(kernel, t, chunk_size)
        if watched is not None:
            watched.enter(t, max_slope)
        return LevelDivergence(
            features_at(kernel.features, t),
            level_flow(here, kind, labels, classes, guidance, lam),
            interacting=kind == "exact",
            event_shape=event,
            chunk_size=chunk_size,
            max_slope=max_slope,
            watch=None if watched is None else lambda phi, slope: watched.watch(here, shares, phi, slope),
        )

    event = tuple(particles.shape[1:])
    descent = _Descent(lambda t: divergence(t, sampler, recorder), event)
    descent.enter(levels[0])
    kept = particles if known is None else known.at(levels[0], particles)

    def after_step(step: int, x: Tensor) -> Tensor | None:
        nonlocal kept
        i, ended = (step - 1) // steps_per_level, step % steps_per_level == 0
        _check_finite(x, kept, levels[i], f"step_size ({step_sizes[i]:g} here) or set max_slope")
        after = (*levels, 0.0)[i + ended]
        if known is not None:
            x = known.at(after, x)
        kept = x
        if ended and callback is not None:
            callback(i + 1, x)
        if ended and i + 1 < len(levels):
            descent.enter(after)
        return None if known is None else x

    result = flow(
        descent,
        kept,
        step_size=lambda step: step_sizes[step // steps_per_level],
        num_steps=len(levels) * steps_per_level,
        momentum=momentum,
        integrator=integrator,
        evaluate=False,
        callback=after_step,
    )
    if final_steps == 0:
        return result.particles, result.nfe
    assert final_step_size is not None
    t, eta = levels[-1] if final_level is None else final_level, final_step_size

    def after_final_step(step: int, x: Tensor) -> Tensor | None:
        nonlocal kept
        _check_finite(x, kept, t, f"final_step_size ({eta:g} here)")
        kept = x if known is None else known.at(0.0, x)
        return None if known is None else kept

    how = "single" if (final, sampler) == ("exact", "approximate") else final
    last = flow(
        divergence(t, how, None),
        result.particles,
        step_size=eta,
        num_steps=final_steps,
        evaluate=False,
        callback=after_final_step,
    )
    if callback is not None:
        callback(len(levels) + 1, last.particles)
    return last.particles, result.nfe + last.nfe


def _check_finite(x: Tensor, kept: Tensor, t: float, what: str) -> None:
    if not _checks.all_finite(x):
        raise DivergedError(f"noise level t = {t:.4f}: particles became non-finite: lower {what}", kept)
