"""Forward diffusions x_t = alpha_t x_0 + sigma_t eps, t in [0, 1] (0 clean, 1 noise), and kernels indexed by t."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import along, device_of
from mmdflow.errors import InputError
from mmdflow.kernels import Deep, Gaussian, Kernel, Linear


class Schedule:
    """A path of noise: subclasses give `alpha` and `sigma`, functions of t in [0, 1] of any shape."""

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


@dataclass(frozen=True)
class VPSchedule(Schedule):
    """The variance-preserving SDE of Song et al. (2021): beta(t) linear from beta_min to beta_max."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))


@dataclass(frozen=True)
class DDPMSchedule(Schedule):
    """The discrete schedule of Ho et al. (2020): betas linear over `num_steps`; log alpha is interpolated between them."""

    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_steps: int = 1000

    def _log_alpha(self, t: Tensor) -> Tensor:
        betas = torch.linspace(self.beta_start, self.beta_end, self.num_steps, dtype=torch.float64, device=t.device)
        table = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0) / 2])
        position = (t.double() * self.num_steps).clamp(0, self.num_steps)
        low = position.floor().long().clamp_max(self.num_steps - 1)
        return torch.lerp(table[low], table[low + 1], position - low).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """The cosine schedule of Nichol and Dhariwal (2021), with offset s."""

    offset: float = 0.008

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        start = math.cos(math.pi / 2 * self.offset / (1 + self.offset))
        return (torch.cos(math.pi / 2 * (t + self.offset) / (1 + self.offset)) / start).clamp(0, 1)


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    """The straight path of rectified flow (Liu et al. 2023): alpha = 1 - t, sigma = t. Not variance preserving."""

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
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


class NoiseConditionalKernel(nn.Module):
    r"""k_t(x, y) = base_t(phi(x, t), phi(y, t)): one kernel for every noise level (DMMD paper, section 4).

    Args:
        features: phi(x, t) with x [n, *event] and t [n] -> [n, K]; the identity when None.
        base: the kernel on features; linear by default (DMMD paper, eq. 11). Override `base_at` where it depends on t.
        witness_norm: the norm in the RKHS that the witness of noised against clean data is scaled to at every level; None
            leaves it as it is, with norm MMD_t. The flow is then that of the MMD instead of its square. Needs a base with a
            finite feature map. Ours.

    Example:
        >>> import torch
        >>> kernel = NoiseConditionalKernel(lambda x, t: t[:, None] * x)
        >>> kernel.at(0.5)(torch.ones(1, 2), torch.ones(1, 2))
        tensor([[0.5000]])
    """

    def __init__(
        self,
        features: Callable[[Tensor, Tensor], Tensor] | None = None,
        base: Kernel | None = None,
        *,
        witness_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.features: Any = features if features is not None else _identity
        self.base = Linear() if base is None else base
        self.witness_norm = None if witness_norm is None else _checks.positive("witness_norm", witness_norm)
        if witness_norm is not None and not self.base.finite:
            raise InputError(
                f"witness_norm = {witness_norm:g} with base = {type(self.base).__name__}: must be None; the base has no finite "
                "feature map"
            )

    def base_at(self, t: Tensor) -> Kernel:
        """Return the kernel on features at noise level t, a scalar tensor."""
        return self.base

    def at(self, t: float | Tensor) -> Kernel:
        """Return the kernel of noise level t in [0, 1]."""
        level = _checks.interval("t", float(t), 0.0, 1.0)

        def features(x: Tensor) -> Tensor:
            return self.features(x, x.new_full((len(x),), level))

        return Deep(self.base_at(torch.as_tensor(t)), features)


class NoiseConditionalGaussian(NoiseConditionalKernel):
    """k_t(x, y) = exp(-|x - y|^2 / (2 width(t)^2)) on the events themselves (DMMD paper, section 7, Figures 1-2).

    Args:
        width: a positive function or module of t, [] -> [].
    """

    def __init__(self, width: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.width = width

    def base_at(self, t: Tensor) -> Kernel:
        """Return the Gaussian kernel of width(t)."""
        return Gaussian(self.width(t))


class NoiseConditionalWitness(NoiseConditionalKernel):
    r"""A learned witness h(x, t) = <phi(x, t), a_t> for KL lower bounds (DMMD paper, section D), with its linear kernel.

    a_t is read off sines and cosines of t, and 1 at the start.

    Args:
        features: phi(x, t), [n, *event], [n] -> [n, num_features].
        num_features: K.
    """

    frequencies: Tensor

    def __init__(self, features: Callable[[Tensor, Tensor], Tensor] | None, num_features: int) -> None:
        super().__init__(features)
        self.register_buffer("frequencies", math.pi * torch.arange(1, 9) / 2, persistent=False)
        self.read_out = nn.Linear(16, _checks.count("num_features", num_features))
        nn.init.zeros_(self.read_out.weight)
        nn.init.ones_(self.read_out.bias)

    def direction(self, t: Float[Tensor, " L"]) -> Float[Tensor, "L K"]:
        """Return a_t."""
        angles = t[:, None] * self.frequencies
        direction: Tensor = self.read_out(torch.cat([angles.sin(), angles.cos()], 1))
        return direction


def clamped_exp(h: Tensor, most: float = 15.0) -> Tensor:
    """Return e^h, continued by its tangent above `most`, so that neither it nor its slope overflows."""
    within = h.clamp_max(most)
    return within.exp() * (1 + h - within)


def _identity(x: Tensor, t: Tensor) -> Tensor:
    return x
