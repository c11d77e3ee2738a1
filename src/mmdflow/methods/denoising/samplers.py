"""Samplers of denoisers: diffusers' DDPM and DDIM for noise predictors; Euler, Heun, Adams and Bashforth for velocities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import DivergedError
from mmdflow.methods.denoising.settings import NUM_STEPS, DDPMSettings, FlowMatchingSettings
from mmdflow.noise import Schedule

Predictor = Callable[[Tensor, float], Tensor]


def diffusion_scheduler(schedule: Schedule, settings: DDPMSettings, clip: float | None = None) -> Any:
    """Return diffusers' `DDPMScheduler` or `DDIMScheduler` for a variance-preserving schedule, its steps set.

    Its betas are those of the schedule at t = 1/1000, ..., 1, at most 0.999 (Nichol and Dhariwal 2021). The first step is at the
    highest level ("trailing", Lin et al. 2024); the ancestral variance is the posterior's (Ho et al. 2020, eq. 7).

    Args:
        schedule: the forward diffusion.
        settings: the steps, "ancestral" (Ho et al. 2020, Algorithm 2) or "ddim" (Song et al. 2021, eq. 12 with eta = 0).
        clip: bound on the entries of the predicted clean sample; none when None.

    Raises:
        ImportError: if diffusers is not installed.
    """
    try:
        from diffusers import DDIMScheduler, DDPMScheduler
    except ImportError as error:
        raise ImportError("sampling a DDPM needs diffusers: pip install 'mmdflow[images]'") from error
    signal = schedule.alpha(torch.arange(NUM_STEPS + 1, dtype=torch.float64) / NUM_STEPS).square()
    betas = (1 - signal[1:] / signal[:-1].clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(0.999)
    scheduler = (DDPMScheduler if settings.sampler == "ancestral" else DDIMScheduler)(
        num_train_timesteps=NUM_STEPS,
        trained_betas=betas.tolist(),
        clip_sample=clip is not None,
        clip_sample_range=1.0 if clip is None else _checks.positive("clip", clip),
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(settings.num_levels)
    return scheduler


@torch.no_grad()
def diffusion_states(
    predict: Predictor,
    schedule: Schedule,
    x: Float[Tensor, "n *event"],
    settings: DDPMSettings,
    *,
    clip: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "n *event"]]:
    """Yield the particles after every step from noise to data with a noise predictor; each step is one evaluation.

    Args:
        predict: (x, t) -> the noise in x, t in [0, 1].
        schedule: the forward diffusion, variance preserving.
        x: the source, [n, *event], N(0, I).
        settings: the steps, "ancestral" or "ddim".
        clip: bound on the entries of the predicted clean sample; DDIM's noise is then the one that goes with it, without which
            particles off the path run away.
        generator: of the ancestral sampler's noise.

    Raises:
        DivergedError: when particles become non-finite; names the level.
    """
    scheduler = diffusion_scheduler(schedule, settings, clip)
    for step in scheduler.timesteps.tolist():
        t = (step + 1) / NUM_STEPS
        noise = predict(x, t)
        if settings.sampler == "ancestral":
            x = scheduler.step(noise, step, x, generator=generator).prev_sample
        else:
            x = scheduler.step(noise, step, x, eta=0.0, use_clipped_model_output=clip is not None).prev_sample
        yield _finite(x, t)


@torch.no_grad()
def ode_states(
    predict: Predictor, x: Float[Tensor, "n *event"], settings: FlowMatchingSettings
) -> Iterator[Float[Tensor, "n *event"]]:
    """Yield the particles after every step of dx/dt = v(x, t) from t = 1 to 0; Heun's steps are two evaluations.

    Adams and Bashforth carry the velocity on in a straight line from the one before: (3 v_i - v_{i-1}) / 2. Their first step is
    Euler's. `flow` has no field for Heun's second evaluation, which is at the next level, and rounds Adams and Bashforth's
    combination otherwise; so steps are made here.

    Args:
        predict: (x, t) -> the velocity v at x, t in [0, 1].
        x: the source, [n, *event], N(0, I).
        settings: the steps, of equal lengths, and "euler", "heun" or "adams_bashforth".

    Raises:
        DivergedError: when particles become non-finite; names the level.

    Example:
        >>> settings = FlowMatchingSettings(num_levels=2)
        >>> [x.item() for x in ode_states(lambda x, t: x / t, torch.ones(1, 1), settings)]
        [0.5, 0.0]
    """
    count, before = settings.num_levels, None
    for done in range(1, count + 1):
        t, after = 1 - (done - 1) / count, 1 - done / count
        velocity = predict(x, t)
        mean = velocity
        if settings.sampler == "heun":
            mean = (velocity + predict(x + (after - t) * velocity, after)) / 2
        elif settings.sampler == "adams_bashforth" and before is not None:
            mean = (3 * velocity - before) / 2
        x, before = x + (after - t) * mean, velocity
        yield _finite(x, after)


def _finite(x: Tensor, t: float) -> Tensor:
    if not _checks.all_finite(x):
        raise DivergedError(f"particles became non-finite at noise level t = {t:.4f}")
    return x
