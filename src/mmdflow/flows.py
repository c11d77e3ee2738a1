"""The flow: particles move along minus the gradient of a divergence's witness."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _checks
from mmdflow.divergences import Divergence
from mmdflow.errors import DivergedError, InputError
from mmdflow.types import FlowResult, ScalarOrSchedule


def flow(
    divergence: Divergence,
    particles: Float[Tensor, "n *event"],
    *,
    step_size: ScalarOrSchedule,
    num_steps: int,
    momentum: ScalarOrSchedule = 0.0,
    noise_injection: ScalarOrSchedule | None = None,
    diffusion: ScalarOrSchedule | None = None,
    save_every: int | None = None,
    evaluate: bool = True,
    callback: Callable[[int, Tensor], Tensor | bool | None] | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> FlowResult:
    r"""Move particles along the Wasserstein gradient of a divergence by explicit Euler steps.

    x <- x - eta v,  v <- grad f(x + beta u) + momentum v,  u ~ N(0, I)
    (Arbel et al. 2019, noise injection; Hertrich et al. 2024, momentum, whose effective step is eta / (1 - momentum)).

    Args:
        divergence: F, with its target.
        particles: the source, [n, *event], n >= 1; never modified.
        step_size: eta, a number or a function of the step index 0, 1, ...
        num_steps: steps to make, at least 0.
        momentum: in [0, 1), a number or a function of the step.
        noise_injection: beta; the gradient is evaluated at x + beta u, off the support. It is not Langevin diffusion.
        diffusion: x receives + diffusion * u after the step (Langevin-like), a number or a function of the step.
        save_every: record particles and F every so many steps; the start and the end always are.
        evaluate: whether to compute F at the recorded steps; without it `values` is empty.
        callback: called after every step with (steps made, particles). It may return a tensor of the same shape that replaces
            the particles (a projection), True to stop, or None.
        progress: show a bar.
        generator: of the random draws; on its own device.

    Returns:
        A `FlowResult`.

    Raises:
        InputError: for NaN or infinite particles, mismatched shapes, impossible settings.
        DivergedError: when particles become non-finite; lower step_size.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian, flow
        >>> target = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> result = flow(MMD(target, Gaussian(1.0)), target + 1, step_size=1.0, num_steps=100)
        >>> bool(result.values[-1] < 0.1 * result.values[0])
        True
    """
    divergence.check(particles)
    _checks.count("num_steps", num_steps, 0)
    if save_every is not None:
        _checks.count("save_every", save_every)
    accelerated = callable(momentum) or momentum != 0
    eta = _checks.schedule("step_size", step_size)
    rho = _checks.schedule("momentum", momentum, lambda field, value: _checks.interval(field, value, 0.0, 1.0, "[)"))
    beta = None if noise_injection is None else _checks.schedule("noise_injection", noise_injection)
    temperature = None if diffusion is None else _checks.schedule("diffusion", diffusion)

    with torch.inference_mode(False), torch.no_grad():
        x = particles.detach().clone()
        previous: Tensor | None = None
        snapshots, steps = [x], [0]
        values = [divergence(x)] if evaluate else []
        made = 0
        for step in tqdm(range(num_steps), disable=not progress, desc="flow", unit="step"):
            at = None if beta is None else x + beta(step) * normal_like(x, generator)
            gradient = -divergence.velocity(x, at)
            if accelerated:
                rate = rho(step)
                gradient = gradient if previous is None else gradient + rate * previous
                previous = gradient
            x = x - eta(step) * gradient
            if temperature is not None:
                x = x + temperature(step) * normal_like(x, generator)
            made = step + 1
            stop = False
            if callback is not None:
                answer = callback(made, x)
                if isinstance(answer, Tensor):
                    if answer.shape != x.shape:
                        raise InputError(f"callback returned shape {list(answer.shape)}: must be {list(x.shape)}")
                    x = answer.detach()
                stop = answer is True
            if stop or made == num_steps or (save_every is not None and made % save_every == 0):
                if not bool(torch.isfinite(x).all()):
                    raise DivergedError(
                        f"particles became non-finite by step {made}: lower step_size ({eta(step):g} here)"
                    )
                snapshots.append(x)
                steps.append(made)
                if evaluate:
                    values.append(divergence(x))
            if stop:
                break
        return FlowResult(
            particles=x,
            values=torch.stack(values) if values else x.new_empty(0),
            trajectory=torch.stack(snapshots),
            steps=torch.tensor(steps),
            nfe=made,
        )


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise shaped like x, on the generator's device, moved to x's."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
