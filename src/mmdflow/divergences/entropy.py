"""Entropy functions f of f-divergences D_f(sigma | mu) = E_mu f(d sigma / d mu), with what their solvers need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError


class Entropy:
    """A convex f >= 0 on [0, inf) with f(1) = 0. All functions act entry by entry.

    `steep` says that f'(0) = -inf, so that optimal densities are positive.
    """

    steep: bool = True

    def value(self, r: Tensor) -> Tensor:
        """Return f(r) of a density r >= 0."""
        raise NotImplementedError

    def slope(self, r: Tensor) -> Tensor:
        """Return f'(r)."""
        raise NotImplementedError

    def curvature(self, r: Tensor) -> Tensor:
        """Return f''(r)."""
        raise NotImplementedError

    def density(self, h: Tensor) -> Tensor:
        """Return the r at which f'(r) = h, that is (f*)'(h); 0 below f'(0), inf above f'(inf)."""
        raise NotImplementedError

    def conjugate(self, h: Tensor) -> Tensor:
        """Return f*(h) = sup_r h r - f(r); inf above f'(inf)."""
        r = self.density(h)
        return torch.where(torch.isfinite(r), h * r - self.value(r), torch.full_like(r, torch.inf))


class KL(Entropy):
    """f = r log r - r + 1: Kullback-Leibler, KL(sigma | mu)."""

    def value(self, r: Tensor) -> Tensor:
        """Return r log r - r + 1."""
        return torch.special.xlogy(r, r) - r + 1

    def slope(self, r: Tensor) -> Tensor:
        """Return log r."""
        return torch.log(r)

    def curvature(self, r: Tensor) -> Tensor:
        """Return 1 / r."""
        return 1 / r

    def density(self, h: Tensor) -> Tensor:
        """Return e^h."""
        return torch.exp(h)

    def conjugate(self, h: Tensor) -> Tensor:
        """Return e^h - 1."""
        return torch.expm1(h)


class ReverseKL(Entropy):
    """f = r - 1 - log r: KL(mu | sigma)."""

    def value(self, r: Tensor) -> Tensor:
        """Return r - 1 - log r."""
        return r - 1 - torch.log(r)

    def slope(self, r: Tensor) -> Tensor:
        """Return 1 - 1/r."""
        return 1 - 1 / r

    def curvature(self, r: Tensor) -> Tensor:
        """Return 1 / r^2."""
        return r**-2

    def density(self, h: Tensor) -> Tensor:
        """Return 1 / (1 - h)_+."""
        return 1 / (1 - h).clamp_min(0)

    def conjugate(self, h: Tensor) -> Tensor:
        """Return -log (1 - h)_+."""
        return -torch.log((1 - h).clamp_min(0))


class Jeffreys(Entropy):
    """f = (r - 1) log r: KL(sigma | mu) + KL(mu | sigma)."""

    def value(self, r: Tensor) -> Tensor:
        """Return (r - 1) log r."""
        return (r - 1) * torch.log(r)

    def slope(self, r: Tensor) -> Tensor:
        """Return log r + 1 - 1/r."""
        return torch.log(r) + 1 - 1 / r

    def curvature(self, r: Tensor) -> Tensor:
        """Return 1/r + 1/r^2."""
        return 1 / r + r**-2

    def density(self, h: Tensor) -> Tensor:
        """Return 1 / W(exp(1 - h)), with W of Lambert, by Newton steps on log W, where w + log w = 1 - h is convex."""
        z = 1 - h
        log_w = torch.where(z > 1, torch.log(z.clamp_min(1)), z)
        for _ in range(40):
            w = torch.exp(log_w)
            log_w = log_w - (w + log_w - z) / (w + 1)
        return torch.exp(-log_w)

    def conjugate(self, h: Tensor) -> Tensor:
        """Return r - 1 + log r at the density r of h."""
        r = self.density(h)
        return r - 1 + torch.log(r)


class Tsallis(Entropy):
    """f = (r^alpha - alpha r + alpha - 1) / (alpha - 1), alpha > 0, alpha != 1; chi^2 for alpha = 2."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.steep = alpha < 1

    def value(self, r: Tensor) -> Tensor:
        """Return (r^alpha - alpha r + alpha - 1) / (alpha - 1)."""
        return (r**self.alpha - self.alpha * r + self.alpha - 1) / (self.alpha - 1)

    def slope(self, r: Tensor) -> Tensor:
        """Return alpha / (alpha - 1) (r^(alpha - 1) - 1)."""
        return self.alpha / (self.alpha - 1) * (r ** (self.alpha - 1) - 1)

    def curvature(self, r: Tensor) -> Tensor:
        """Return alpha r^(alpha - 2)."""
        return self.alpha * r ** (self.alpha - 2)

    def density(self, h: Tensor) -> Tensor:
        """Return (1 + (alpha - 1) h / alpha)_+^(1 / (alpha - 1))."""
        return (1 + (self.alpha - 1) / self.alpha * h).clamp_min(0) ** (1 / (self.alpha - 1))


ENTROPIES: dict[str, Callable[[], Entropy]] = {
    "kl": KL,
    "reverse-kl": ReverseKL,
    "jeffreys": Jeffreys,
    "chi2": lambda: Tsallis(2.0),
}
#: The names of `entropy`.
NAMES = (*ENTROPIES, "tsallis")


def entropy(name: str, alpha: float | None = None) -> Entropy:
    """Return the entropy function of that name; "tsallis" needs alpha > 0 and is KL at alpha = 1.

    Raises:
        InputError: for an unknown name, or an alpha that is missing, not positive, or given to another name.
    """
    _checks.choice("divergence", name, NAMES)
    if name != "tsallis":
        if alpha is not None:
            raise InputError(f"alpha = {alpha!r} with divergence = {name!r}: only 'tsallis' has an alpha")
        return ENTROPIES[name]()
    order = _checks.positive("alpha", alpha)  # type: ignore[arg-type]
    return KL() if order == 1 else Tsallis(order)
