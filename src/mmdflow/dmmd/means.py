"""Mean features of the data at every noise level, which the samplers need beside the weights (DMMD paper, eq. 12-13)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.flows import normal_like
from mmdflow.kernels import Kernel
from mmdflow.noise import NoiseConditionalKernel, Schedule


@dataclass(frozen=True)
class TargetMeans:
    """Mean embeddings of clean and of noised data on a grid of noise levels.

    Attributes:
        levels: increasing noise levels, [T].
        clean: mean psi(x_0, t), [T, K].
        noisy: mean psi(x_t, t), [T, K].
    """

    levels: Float[Tensor, " T"]
    clean: Float[Tensor, "T K"]
    noisy: Float[Tensor, "T K"]

    def __post_init__(self) -> None:
        """Check shapes, order and finiteness."""
        shapes = [list(m.shape) for m in (self.levels, self.clean, self.noisy)]
        if len(shapes[0]) != 1 or len(shapes[1]) != 2 or shapes[1] != shapes[2] or shapes[0][0] != shapes[1][0]:
            raise InputError(f"target means have shapes {shapes}: must be [T], [T, K] and [T, K]")
        if bool((self.levels.diff() <= 0).any()):
            raise InputError(f"levels = {self.levels.tolist()[:5]}...: must increase")
        for field in ("levels", "clean", "noisy"):
            if not bool(torch.isfinite(getattr(self, field)).all()):
                raise InputError(f"target means: {field} holds NaN or infinite entries")

    def at(self, t: float) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
        """Return the clean and the noisy mean at level t: as stored on the grid, linear in t between.

        Raises:
            InputError: if t lies outside the grid.
        """
        low, high = float(self.levels[0]), float(self.levels[-1])
        slack = 1e-6  # float32 levels
        t = min(max(_checks.interval("noise level t", t, low - slack, high + slack), low), high)
        i = int(torch.searchsorted(self.levels, torch.tensor(t, dtype=self.levels.dtype, device=self.levels.device)))
        if i == 0:
            return self.clean[0], self.noisy[0]
        weight = (t - float(self.levels[i - 1])) / float(self.levels[i] - self.levels[i - 1])
        return (
            torch.lerp(self.clean[i - 1], self.clean[i], weight),
            torch.lerp(self.noisy[i - 1], self.noisy[i], weight),
        )

    def to(self, device: torch.device | str) -> TargetMeans:
        """Return the means on a device."""
        return TargetMeans(self.levels.to(device), self.clean.to(device), self.noisy.to(device))


@torch.no_grad()
def target_means(
    kernel: NoiseConditionalKernel,
    schedule: Schedule,
    batches: Iterable[Tensor],
    levels: Float[Tensor, " T"],
    *,
    noise_repeats: int = 1,
    generator: torch.Generator | None = None,
    callback: Callable[[int], object] | None = None,
) -> TargetMeans:
    """Stream the data once and return its mean embeddings at every level, accumulated in float64.

    Args:
        kernel: the noise-conditional kernel; its base must have a finite feature map (linear).
        schedule: the forward diffusion.
        batches: the data, in batches [n, *event].
        levels: increasing noise levels in [0, 1], [T].
        noise_repeats: draws of noise an event; the same draws serve every level, so that the means are smooth in t.
        generator: of the noise.
        callback: called with the events done after every batch.

    Raises:
        InputError: for a base kernel with no finite feature map, levels that do not increase, or no data.
    """
    _checks.count("noise_repeats", noise_repeats)
    count, clean_sum, noisy_sum = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        noises = [normal_like(batch, generator) for _ in range(noise_repeats)]
        clean_rows, noisy_rows = [], []
        for t in levels:
            k = kernel.at(t)
            level = t.to(batch).expand(len(batch))
            clean_rows.append(_mean_sum(k, batch))
            noised = [_mean_sum(k, schedule.add_noise(batch, e, level)) for e in noises]
            noisy_rows.append(torch.stack(noised).mean(0))
        clean_sum, noisy_sum = clean_sum + torch.stack(clean_rows), noisy_sum + torch.stack(noisy_rows)
        count += len(batch)
        like = batch
        if callback is not None:
            callback(count)
    if count == 0:
        raise InputError("batches is empty: must hold at least one batch of data")
    return TargetMeans(levels.to(like.device), (clean_sum / count).to(like), (noisy_sum / count).to(like))


def _mean_sum(kernel: Kernel, x: Tensor) -> Tensor:
    if not kernel.finite:
        raise InputError("the base kernel has no finite feature map: target means need a linear base kernel")
    return kernel.embed(x).sum(0).cpu().double()  # not every device has float64
