"""Training a network along a velocity field: the second use of a velocity, beside `flow`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from mmdflow import _checks
from mmdflow._tensors import device_of, flat
from mmdflow.divergences import VelocityField
from mmdflow.divergences.base import check_particles
from mmdflow.errors import DivergedError, InputError
from mmdflow.types import ScalarOrSchedule


@dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Attributes:
        network: the trained network, its weights averaged over the last steps where `ema_decay` is above 0.
        values: the loss mean |v|^2 of each step, [num_steps]: how fast the samples still move.
        steps: the steps made.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, fit
        >>> result = fit(MMD(torch.ones(4, 1)), torch.nn.Linear(1, 1), (1,), num_steps=3, batch_size=8)
        >>> result.steps, len(result.values), result.network(torch.zeros(5, 1)).shape
        (3, 3, torch.Size([5, 1]))
    """

    network: nn.Module
    values: Float[Tensor, " S"]
    steps: int

    def __repr__(self) -> str:
        """Return a line."""
        last = f", last loss {float(self.values[-1]):.4g}" if len(self.values) else ""
        return f"FitResult({type(self.network).__name__}, {self.steps} steps{last})"


def fit(
    field: VelocityField | Callable[[int], VelocityField],
    network: nn.Module,
    source: Sequence[int] | Callable[[int, torch.Generator | None], Tensor],
    *,
    num_steps: int,
    step_size: ScalarOrSchedule = 1e-3,
    batch_size: int = 256,
    chunk_size: int | None = None,
    ema_decay: float = 0.999,
    optimizer: torch.optim.Optimizer | None = None,
    callback: Callable[[int, Tensor], bool | None] | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> FitResult:
    r"""Train a network G so that its samples follow a velocity field: loss mean_i |G(e_i) - sg(G(e_i) + v_i)|^2.

    v_i is the field at the samples x_i = G(e_i), sg stops gradients, so that dL/dx_i = -2 v_i / n: one step of the flow and
    one of the optimiser together (Deng et al. 2026, arXiv 2602.04770). With `MMD` it is the generative moment matching network
    (Li, Swersky, Zemel 2015), with `Drift` a drifting model. After training, a sample costs one evaluation of G.

    Args:
        field: a `VelocityField`, such as `MMD(target, kernel)` or `Drift(target, kernel)`, or a function of the step that
            returns one, such as a field to a new batch of the data, or of a smaller bandwidth.
        network: G, from noise [n, *noise] to events [n, *event]. It is trained in place.
        source: the shape of an event of the noise, drawn from N(0, I); or a function of (n, generator) that draws [n, *noise].
        num_steps: steps of the optimiser.
        step_size: of Adam, a number or a function of the step; an `optimizer` of one's own has its own.
        batch_size: n, the samples of a step. They interact in the field.
        chunk_size: samples whose gradient is taken at once. It bounds memory; the gradient is the same to rounding, and the
            network is evaluated once more (gradient caching).
        ema_decay: of the average of the weights that is returned, in [0, 1); 0 returns the last ones.
        optimizer: in place of Adam with betas (0.9, 0.99).
        callback: called after each step with (steps made, the step's samples); True stops the training.
        progress: show a bar.
        generator: of the noise.

    Returns:
        A `FitResult`.

    Raises:
        InputError: for impossible settings, or samples of another shape than the field's target.
        DivergedError: when samples or velocities become non-finite.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian, fit
        >>> rng = torch.Generator().manual_seed(0)
        >>> target = torch.randn(200, 1, generator=rng) + 3
        >>> network = torch.nn.Linear(1, 1)
        >>> result = fit(MMD(target, Gaussian(2.0)), network, (1,), num_steps=300, step_size=0.05, generator=rng)
        >>> bool((result.network(torch.randn(500, 1, generator=rng)).mean() - 3).abs() < 0.3)
        True
    """
    _checks.count("num_steps", num_steps, 0)
    _checks.count("batch_size", batch_size)
    _checks.interval("ema_decay", ema_decay, 0.0, 1.0, "[)")
    size = batch_size if chunk_size is None else min(_checks.count("chunk_size", chunk_size), batch_size)
    eta = _checks.schedule("step_size", step_size, _checks.positive)
    if not isinstance(network, nn.Module):
        raise InputError(f"network = {type(network).__name__}: must be a torch.nn.Module")
    if not callable(source) and not isinstance(source, Sequence):
        raise InputError(
            f"source = {source!r}: must be the shape of an event, as (2,), or a function of (n, generator)"
        )
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(f"network = {type(network).__name__}: has no parameters to train")
    sets_rate = optimizer is None
    optimizer = torch.optim.Adam(parameters, lr=eta(0), betas=(0.9, 0.99)) if optimizer is None else optimizer
    draw = source if callable(source) else _gaussian(tuple(source), parameters[0])
    average = deepcopy(network).requires_grad_(False)
    values: list[Tensor] = []
    step = 0
    for step in tqdm(range(1, num_steps + 1), disable=not progress, desc="fit", unit="step"):
        noise = draw(batch_size, generator)
        here = field if isinstance(field, VelocityField) else field(step - 1)
        if sets_rate:
            for group in optimizer.param_groups:
                group["lr"] = eta(step - 1)
        optimizer.zero_grad(set_to_none=True)
        samples, value = _backward(here, network, noise, size)
        if not _checks.all_finite(value):
            raise DivergedError(f"samples or velocities became non-finite at step {step}: lower step_size")
        optimizer.step()
        _update(average, network, min(ema_decay, step / (step + 9)))  # the first steps are forgotten sooner
        values.append(value)
        if callback is not None and callback(step, samples):
            break
    result = average if ema_decay > 0 else deepcopy(network).requires_grad_(False)
    return FitResult(result, torch.stack(values) if values else parameters[0].new_empty(0), step)


def _backward(field: VelocityField, network: nn.Module, noise: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Add the gradient of the loss to the network's parameters; return the samples and the loss, NaN if they are not finite."""
    with torch.enable_grad():
        whole = network(noise) if size >= len(noise) else None
    with torch.no_grad():
        samples = whole.detach() if whole is not None else torch.cat([network(part) for part in noise.split(size)])
        if not _checks.all_finite(samples):
            return samples, samples.new_tensor(math.nan)
        seen = check_particles(field, samples, "samples of the network")
        velocity = field.velocity(seen).to(samples.dtype)
        cotangent = -2 / len(samples) * velocity
    with torch.enable_grad():
        if whole is not None:
            whole.backward(cotangent)
        else:
            for part, pull in zip(noise.split(size), cotangent.split(size), strict=True):
                network(part).backward(pull)
    return samples, flat(velocity).square().sum(1).mean()


@torch.no_grad()
def _update(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
    for copy, buffer in zip(average.buffers(), network.buffers(), strict=True):
        copy.copy_(buffer)


def _gaussian(shape: tuple[int, ...], like: Tensor) -> Callable[[int, torch.Generator | None], Tensor]:
    for length in shape:
        _checks.count("source", length)

    def draw(count: int, generator: torch.Generator | None) -> Tensor:
        device = device_of(generator, like.device)
        return torch.randn(count, *shape, generator=generator, device=device, dtype=like.dtype).to(like.device)

    return draw
