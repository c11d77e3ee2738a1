"""Sampling: the same flow once per noise level (DMMD paper, Algorithm 2 and section 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import along
from mmdflow.divergences import MMD, Divergence, PotentialEnergy
from mmdflow.dmmd.means import TargetMeans
from mmdflow.errors import DivergedError, InputError
from mmdflow.flows import flow
from mmdflow.kernels import Kernel
from mmdflow.noise import NoiseConditionalKernel, Schedule
from mmdflow.witness import EmbeddingWitness

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


class _OwnMean:
    """V(z) = 1/2 |psi(z) - mean|^2: the exact flow of a single particle, whose own embedding is the particles' mean."""

    def __init__(self, kernel: Kernel, mean: Tensor) -> None:
        self.kernel, self.mean = kernel, mean

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        return (self.kernel.embed(z) - self.mean).square().sum(1) / 2

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad(self(z).sum(), z)[0]


class _Limited(Divergence):
    """Another divergence whose velocity is no faster than a bound, particle by particle."""

    def __init__(self, inner: Divergence, max_slope: float) -> None:
        super().__init__()
        self.inner, self.max_slope, self.event_shape = inner, max_slope, inner.event_shape

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        return self.inner(x, weights)

    def velocity(
        self,
        x: Float[Tensor, "n *event"],
        at: Float[Tensor, "k *event"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "k *event"]:
        velocity = self.inner.velocity(x, at, weights)
        return velocity * along((self.max_slope / velocity.flatten(1).norm(dim=1)).clamp_max(1), velocity)


def level_divergence(
    kernel: NoiseConditionalKernel, means: TargetMeans, t: float, sampler: str, event_shape: tuple[int, ...]
) -> Divergence:
    """Return the divergence whose flow a sampler follows at noise level t.

    exact: 1/2 MMD^2 of the particles to the clean data (eq. 9-10); approximate: the potential
    <psi(z), mean psi(X_t) - mean psi(X_0)> (eq. 13), in which particles do not see each other; single: the exact flow of each
    particle on its own, as the final steps of a-DMMD-e use.
    """
    k = kernel.at(t)
    clean, noisy = means.at(t)
    if sampler == "exact":
        return MMD.from_mean_embedding(clean, k, event_shape)
    if sampler == "approximate":
        return PotentialEnergy(EmbeddingWitness(k, noisy - clean), event_shape)
    return PotentialEnergy(_OwnMean(k, clean), event_shape)


def sample(
    kernel: NoiseConditionalKernel,
    means: TargetMeans,
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
    callback: Callable[[int, Tensor], None] | None = None,
) -> tuple[Float[Tensor, "n *event"], int]:
    """Run one flow a noise level, from noise to data; return the particles and the evaluations made (NFE).

    Args:
        kernel: the trained noise-conditional kernel (linear base).
        means: the target's mean embeddings.
        particles: the source, [n, *event], usually N(0, I).
        levels: noise levels, from high to low.
        step_sizes: eta at each level, shared by its steps.
        steps_per_level: N_s.
        sampler: "exact" (particles interact) or "approximate" (each on its own).
        final_steps: denoising steps after the last level.
        final_sampler: the flow of the final steps: "approximate", or "exact": with all particles after the exact sampler
            (DMMD-e), with each particle on its own after the approximate one (a-DMMD-e). Default: the sampler's.
        final_step_size: eta of the final steps; needed if there are any.
        final_level: noise level of the final steps; the last one by default.
        max_slope: bound on a particle's |grad f|; longer gradients are shortened to it.
        callback: called after each level with (levels done, particles).

    Raises:
        DivergedError: when particles become non-finite; names the level.
    """
    _checks.choice("sampler", sampler, SAMPLERS)
    final = _checks.choice("final_sampler", final_sampler or sampler, SAMPLERS)
    _checks.count("steps_per_level", steps_per_level)
    _checks.count("final_steps", final_steps, 0)
    if len(levels) != len(step_sizes):
        raise InputError(f"step_sizes has {len(step_sizes)} entries: must have {len(levels)}, one a level")
    event = tuple(particles.shape[1:])
    stages = [(t, eta, steps_per_level, sampler) for t, eta in zip(levels, step_sizes, strict=True)]
    if final_steps:
        eta = _checks.positive("final_step_size", math.nan if final_step_size is None else final_step_size)
        how = "single" if (final, sampler) == ("exact", "approximate") else final
        stages.append((levels[-1] if final_level is None else final_level, eta, final_steps, how))
    nfe = 0
    for i, (t, eta, steps, how) in enumerate(stages):
        divergence = level_divergence(kernel, means, t, how, event)
        if max_slope is not None:
            divergence = _Limited(divergence, max_slope)
        try:
            result = flow(divergence, particles, step_size=eta, num_steps=steps, evaluate=False)
        except DivergedError as error:
            raise DivergedError(f"noise level t = {t:.4f}: {error}") from error
        particles, nfe = result.particles, nfe + result.nfe
        if callback is not None:
            callback(i + 1, particles)
    return particles, nfe
