"""Samplers of denoisers: diffusers' DDPM and DDIM for noise predictors, Euler and Heun for velocities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import DivergedError, InputError
from mmdflow.noise import Schedule

#: Steps of the discrete diffusion; its step i = 1, ..., 1000 is the noise level t = i / 1000.
NUM_STEPS = 1000
DIFFUSION_SAMPLERS, ODE_SAMPLERS = ("ancestral", "ddim"), ("euler", "heun")

Predictor = Callable[[Tensor, float], Tensor]
Callback = Callable[[int, Tensor], None]


def diffusion_scheduler(schedule: Schedule, num_levels: int, sampler: str, clip: float | None = None) -> Any:
    """Return diffusers' `DDPMScheduler` or `DDIMScheduler` for a variance-preserving schedule, its steps set.

    Its betas are those of the schedule at t = 1/1000, ..., 1, at most 0.999 (Nichol and Dhariwal 2021). The first step is at the
    highest level ("trailing", Lin et al. 2024); the ancestral variance is the posterior's (Ho et al. 2020, eq. 7).

    Args:
        schedule: the forward diffusion.
        num_levels: steps, a divisor of 1000.
        sampler: "ancestral" (Ho et al. 2020, Algorithm 2) or "ddim" (Song et al. 2021, eq. 12 with eta = 0).
        clip: bound on the entries of the predicted clean sample; none when None.
    """
    if NUM_STEPS % _checks.count("num_levels", num_levels):
        raise InputError(f"num_levels = {num_levels}: must divide {NUM_STEPS}, the steps of the diffusion")
    _checks.choice("sampler", sampler, DIFFUSION_SAMPLERS)
    try:
        from diffusers import DDIMScheduler, DDPMScheduler
    except ImportError as error:
        raise ImportError("sampling a DDPM needs diffusers: pip install 'mmdflow[images]'") from error
    signal = schedule.alpha(torch.arange(NUM_STEPS + 1, dtype=torch.float64) / NUM_STEPS).square()
    betas = (1 - signal[1:] / signal[:-1].clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(0.999)
    scheduler = (DDPMScheduler if sampler == "ancestral" else DDIMScheduler)(
        num_train_timesteps=NUM_STEPS,
        trained_betas=betas.tolist(),
        clip_sample=clip is not None,
        clip_sample_range=1.0 if clip is None else _checks.positive("clip", clip),
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(num_levels)
    return scheduler


@torch.no_grad()
def sample_diffusion(
    predict: Predictor,
    schedule: Schedule,
    particles: Float[Tensor, "n *event"],
    *,
    num_levels: int,
    sampler: str = "ancestral",
    clip: float | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> tuple[Float[Tensor, "n *event"], int]:
    """Take particles from noise to data with a noise predictor; return them and the NFE, which is num_levels.

    Args:
        predict: (x, t) -> the noise in x, t in [0, 1].
        schedule: the forward diffusion, variance preserving.
        particles: the source, [n, *event], N(0, I).
        num_levels: steps, a divisor of 1000.
        sampler: "ancestral" or "ddim".
        clip: bound on the entries of the predicted clean sample; DDIM's noise is then the one that goes with it, without which
            particles off the path run away.
        generator: of the ancestral sampler's noise.
        callback: called after each step with (steps done, particles).

    Raises:
        DivergedError: when particles become non-finite; names the level.
    """
    scheduler = diffusion_scheduler(schedule, num_levels, sampler, clip)
    x = particles
    for done, step in enumerate(scheduler.timesteps.tolist(), 1):
        t = (step + 1) / NUM_STEPS
        noise = predict(x, t)
        if sampler == "ancestral":
            x = scheduler.step(noise, step, x, generator=generator).prev_sample
        else:
            x = scheduler.step(noise, step, x, eta=0.0, use_clipped_model_output=clip is not None).prev_sample
        _after(x, t, done, callback)
    return x, num_levels


@torch.no_grad()
def sample_ode(
    predict: Predictor,
    particles: Float[Tensor, "n *event"],
    *,
    num_levels: int,
    sampler: str = "euler",
    callback: Callback | None = None,
) -> tuple[Float[Tensor, "n *event"], int]:
    """Integrate dx/dt = v(x, t) from t = 1 to 0 in equal steps; return the particles and the NFE (twice the steps for Heun).

    Args:
        predict: (x, t) -> the velocity v at x, t in [0, 1].
        particles: the source, [n, *event], N(0, I).
        num_levels: steps.
        sampler: "euler" or "heun".
        callback: called after each step with (steps done, particles).

    Raises:
        DivergedError: when particles become non-finite; names the level.
    """
    count = _checks.count("num_levels", num_levels)
    heun = _checks.choice("sampler", sampler, ODE_SAMPLERS) == "heun"
    x = particles
    for done in range(1, count + 1):
        t, after = 1 - (done - 1) / count, 1 - done / count
        velocity = predict(x, t)
        ahead = x + (after - t) * velocity
        x = x + (after - t) * (velocity + predict(ahead, after)) / 2 if heun else ahead
        _after(x, after, done, callback)
    return x, count * (2 if heun else 1)


def _after(x: Tensor, t: float, done: int, callback: Callback | None) -> None:
    if not _checks.all_finite(x):
        raise DivergedError(f"particles became non-finite at noise level t = {t:.4f}")
    if callback is not None:
        callback(done, x)
