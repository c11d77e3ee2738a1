"""Forward diffusions x_t = alpha_t x_0 + sigma_t eps, t in [0, 1] (0 clean, 1 noise)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _arrays, _checks
from mmdflow._precision import decorate
from mmdflow._tensors import along, device_of

_TAKING_ARRAYS = frozenset({"alpha", "sigma", "add_noise", "displacement"})


class Schedule:
    """A path of noise: subclasses give `alpha` and `sigma`, functions of t in [0, 1] of any shape, an array of any kind."""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        decorate(cls, _TAKING_ARRAYS, _arrays.of_any_kind)

    def alpha(self, t: Tensor) -> Tensor:
        """Return the weight of the clean sample, from 1 at t = 0 to about 0 at t = 1."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Return the standard deviation of the noise; variance preserving by default: sigma^2 = 1 - alpha^2."""
        return (1 - self.alpha(t).square()).clamp_min(0).sqrt()

    def add_noise(
        self, clean: Float[Tensor, "n *event"], noise: Float[Tensor, "n *event"], t: Float[Tensor, " n"]
    ) -> Float[Tensor, "n *event"]:
        """Return x_t = alpha_t x_0 + sigma_t eps (DMMD paper, eq. 6)."""
        return along(self.alpha(t), clean) * clean + along(self.sigma(t), clean) * noise

    def displacement(self, t: Tensor, second_moment: float) -> Tensor:
        """Return d_t, the root mean square over entries of x_t - x_0, for data whose entries have E x_0^2 = second_moment."""
        return ((1 - self.alpha(t)).square() * second_moment + self.sigma(t).square()).sqrt()


decorate(Schedule, _TAKING_ARRAYS, _arrays.of_any_kind)


@dataclass(frozen=True)
class VPSchedule(Schedule):
    """The variance-preserving SDE of Song et al. (2021): beta(t) linear from beta_min to beta_max.

    Example:
        >>> import torch
        >>> from mmdflow import VPSchedule
        >>> t = torch.tensor([0.0, 0.5, 1.0])
        >>> VPSchedule().alpha(t), VPSchedule().sigma(t)
        (tensor([1.0000, 0.2812, 0.0066]), tensor([0.0000, 0.9597, 1.0000]))
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def alpha(self, t: Tensor) -> Tensor:
        """Return exp(-t^2 (beta_max - beta_min) / 4 - t beta_min / 2)."""
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Return sqrt(1 - alpha^2), exact at small t."""
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))


@dataclass(frozen=True)
class DDPMSchedule(Schedule):
    """The discrete schedule of Ho et al. (2020): betas linear over `num_steps`; log alpha is interpolated between them.

    Example:
        >>> import torch
        >>> from mmdflow import DDPMSchedule
        >>> DDPMSchedule().alpha(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.2803, 0.0064])
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_steps: int = 1000

    def _log_alpha(self, t: Tensor) -> Tensor:
        betas = torch.linspace(self.beta_start, self.beta_end, self.num_steps, dtype=torch.float64, device=t.device)
        table = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0) / 2])
        position = (t.double() * self.num_steps).clamp(0, self.num_steps)
        low = position.floor().long().clamp_max(self.num_steps - 1)
        return torch.lerp(table[low], table[low + 1], position - low).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        """Return the root of the product of 1 - beta up to t, interpolated in its logarithm."""
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Return sqrt(1 - alpha^2), exact at small t."""
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """The cosine schedule of Nichol and Dhariwal (2021), with offset s.

    Example:
        >>> import torch
        >>> from mmdflow import CosineSchedule
        >>> CosineSchedule().alpha(torch.tensor([0.0, 0.5]))
        tensor([1.0000, 0.7027])
    """

    offset: float = 0.008

    def alpha(self, t: Tensor) -> Tensor:
        """Return cos(pi/2 (t + s) / (1 + s)), scaled to 1 at t = 0."""
        start = math.cos(math.pi / 2 * self.offset / (1 + self.offset))
        return (torch.cos(math.pi / 2 * (t + self.offset) / (1 + self.offset)) / start).clamp(0, 1)


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    """The straight path of rectified flow (Liu et al. 2023): alpha = 1 - t, sigma = t. Not variance preserving.

    Example:
        >>> import torch
        >>> from mmdflow import LinearSchedule
        >>> LinearSchedule().add_noise(torch.tensor([[4.0]]), torch.tensor([[2.0]]), torch.tensor([0.5]))
        tensor([[3.]])
    """

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Return t."""
        return t


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "vp": VPSchedule,
    "ddpm": DDPMSchedule,
    "cosine": CosineSchedule,
    "linear": LinearSchedule,
}


def schedule(name: str) -> Schedule:
    """Return the schedule of that name: vp, ddpm, cosine or linear."""
    return SCHEDULES[_checks.choice("schedule", name, SCHEDULES)]()


def draw_levels(
    count: int,
    t_min: float,
    t_max: float,
    *,
    power: float = 1.0,
    like: Tensor,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " count"]:
    """Return increasing noise levels t_min + (t_max - t_min) u^power, u uniform, one in each of as many equal strata of u.

    Args:
        count: how many.
        t_min: the lowest.
        t_max: the highest.
        power: below 1 favours high noise, 1 is uniform.
        like: a tensor whose type and device they have.
        generator: draws them.
    """
    device = device_of(generator, like.device)
    jitter = torch.rand(count, generator=generator, device=device, dtype=like.dtype).to(like.device)
    uniform = (torch.arange(count, device=like.device, dtype=like.dtype) + jitter) / count
    return t_min + (t_max - t_min) * uniform**power
