"""Kernels that are exponentials of the distance: Gaussian, Laplace, Matern."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from mmdflow.errors import InputError
from mmdflow.kernels.base import Kernel, Mixture
from mmdflow.kernels.profiles import LOG2E, Decay, Exponential, Term
from mmdflow.kernels.radial import Parameter, Radial, chi2, distance, exp, where_positive


class Gaussian(Radial):
    r"""k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)); times bandwidth^-d with ``normalized=True`` (DMMD paper, Prop. 3.1).

    Example:
        >>> import torch
        >>> Gaussian(1.0)(torch.zeros(1, 2), torch.ones(1, 2))
        tensor([[0.3679]])
    """

    bandwidth: Parameter
    #: The logarithm of the factor in front: 0, or -d log(bandwidth) in `for_events`.
    log_factor: Parameter = 0.0

    def __init__(self, bandwidth: Parameter, *, normalized: bool = False) -> None:
        super().__init__()
        self._set("bandwidth", bandwidth)
        self.normalized = normalized

    def for_events(self, dim: int, dtype: torch.dtype) -> Radial:
        """Return itself, or if it is normalized a copy with the factor bandwidth^-dim.

        Raises:
            InputError: for a factor that leaves the range of the dtype.
        """
        if not self.normalized:
            return self
        log_factor = -dim * (self.bandwidth.log() if isinstance(self.bandwidth, Tensor) else math.log(self.bandwidth))
        if abs(float(log_factor)) > math.log(torch.finfo(dtype).max):
            raise InputError(
                f"bandwidth = {float(self.bandwidth):g} of a normalised Gaussian in dimension {dim}: its factor bandwidth^-{dim} "
                f"leaves the range of {dtype}; take normalized=False"
            )
        scaled = copy.copy(self)
        scaled.log_factor = log_factor
        return scaled

    def profile(self, r2: Tensor) -> Tensor:
        """Return exp(log_factor - r2 / (2 bandwidth^2)), with log_factor = 0 unless it is normalized."""
        return exp(self.log_factor - r2 / (2 * self.bandwidth**2))

    def slope(self, r2: Tensor) -> Tensor:
        """Return -k / bandwidth^2."""
        return -self.profile(r2) / self.bandwidth**2

    def curvature(self, r2: Tensor) -> Tensor:
        """Return k / bandwidth^4."""
        return self.profile(r2) / self.bandwidth**4

    def log_profile(self, r2: Tensor) -> Tensor:
        """Return log_factor - r2 / (2 bandwidth^2)."""
        return self.log_factor - r2 / (2 * self.bandwidth**2)

    def companion(self) -> Kernel:
        """Return bandwidth^2 times itself."""
        return Mixture([self], [float(self.bandwidth) ** 2])

    def compiled_profile(self) -> Term:
        """Return an `Exponential`."""
        b, factor = float(self.bandwidth), math.exp(self.log_factor)
        return Term(Exponential(-0.5 * LOG2E / b**2), factor, -factor / b**2)

    def spectral_variances(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return 1 / bandwidth^2 throughout: the spectral measure is normal."""
        return torch.full((count,), float(self.bandwidth) ** -2, dtype=torch.float64)


class Laplace(Radial):
    r"""k(x, y) = exp(-|x - y| / bandwidth).

    Example:
        >>> import torch
        >>> from mmdflow import Laplace
        >>> Laplace(2.0)(torch.tensor([[0.0]]), torch.tensor([[0.0], [2.0]]))
        tensor([[1.0000, 0.3679]])
    """

    bandwidth: Parameter
    smooth = False

    def __init__(self, bandwidth: Parameter) -> None:
        super().__init__()
        self._set("bandwidth", bandwidth)

    def profile(self, r2: Tensor) -> Tensor:
        """Return exp(-r / bandwidth)."""
        return exp(-distance(r2) / self.bandwidth)

    def slope(self, r2: Tensor) -> Tensor:
        """Return -exp(-r / bandwidth) / (bandwidth r); 0 at r = 0."""
        return -where_positive(r2, lambda s: exp(-s.sqrt() / self.bandwidth) / s.sqrt(), 0.0) / self.bandwidth

    def log_profile(self, r2: Tensor) -> Tensor:
        """Return -r / bandwidth."""
        return -distance(r2) / self.bandwidth

    def companion(self) -> Kernel:
        """Return bandwidth^2 Matern(3/2, sqrt(3) bandwidth) = bandwidth^2 (1 + r / bandwidth) exp(-r / bandwidth)."""
        return _companion_of_laplace(float(self.bandwidth))

    def compiled_profile(self) -> Term:
        """Return a `Decay`."""
        return _exponential_decay(1 / float(self.bandwidth))


def _companion_of_laplace(bandwidth: float) -> Kernel:
    return Mixture([Matern(1.5, math.sqrt(3) * bandwidth)], [bandwidth**2])


def _exponential_decay(rate: float) -> Term:
    """Return exp(-rate r), with the slope -rate exp(-rate r) / r."""
    return Term(Decay(-rate * LOG2E, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0), 1.0, -rate)


class Matern(Radial):
    r"""The Matern kernel of smoothness ``nu`` in {1/2, 3/2, 5/2}; with a = sqrt(2 nu) |x - y| / bandwidth,

    exp(-a), (1 + a) exp(-a), (1 + a + a^2/3) exp(-a) (Rasmussen and Williams 2006, eq. 4.17).

    Example:
        >>> import torch
        >>> from mmdflow import Matern
        >>> Matern(1.5, 1.0)(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]))
        tensor([[1.0000, 0.4834]])
    """

    bandwidth: Parameter

    def __init__(self, nu: float, bandwidth: Parameter) -> None:
        super().__init__()
        if nu not in (0.5, 1.5, 2.5):
            raise InputError(f"nu = {nu!r}: must be one of 0.5, 1.5, 2.5")
        self.nu = float(nu)
        self.smooth = self.nu > 0.5
        self._set("bandwidth", bandwidth)

    def profile(self, r2: Tensor) -> Tensor:
        """Return a polynomial in r / bandwidth times exp(-sqrt(2 nu) r / bandwidth)."""
        if self.nu == 0.5:
            return exp(-distance(r2) / self.bandwidth)
        zero = r2 == 0
        a = math.sqrt(2 * self.nu) * torch.where(zero, torch.ones_like(r2), r2).sqrt() / self.bandwidth
        value = (1 + a + (a**2 / 3 if self.nu == 2.5 else 0)) * exp(-a)
        # at r2 = 0 the kernel is 1 + slope(0) r2 / 2: written so, its derivatives there are right too
        at_zero = -self.nu / (self.nu - 1) / (2 * self.bandwidth**2)
        return torch.where(zero, 1 + at_zero * r2, value)

    def slope(self, r2: Tensor) -> Tensor:
        """Return 2 dk/d(r2); for nu = 1/2 0 at r = 0."""
        if self.nu == 0.5:
            decay = where_positive(r2, lambda s: exp(-s.sqrt() / self.bandwidth) / s.sqrt(), 0.0)
            return -decay / self.bandwidth
        a = math.sqrt(2 * self.nu) * distance(r2) / self.bandwidth
        polynomial = 3.0 if self.nu == 1.5 else 5 / 3 * (1 + a)
        return -polynomial * exp(-a) / self.bandwidth**2

    def curvature(self, r2: Tensor) -> Tensor:
        """Return 2 d slope/d(r2), for nu = 3/2 (0 at r = 0) and 5/2."""
        scale = math.sqrt(2 * self.nu) / self.bandwidth
        if self.nu == 2.5:
            return 25 / 3 * exp(-scale * distance(r2)) / self.bandwidth**4
        return 3 / self.bandwidth**2 * where_positive(r2, lambda s: scale * exp(-scale * s.sqrt()) / s.sqrt(), 0.0)

    def log_profile(self, r2: Tensor) -> Tensor:
        """Return the logarithm of the polynomial, less sqrt(2 nu) r / bandwidth."""
        a = math.sqrt(2 * self.nu) * distance(r2) / self.bandwidth
        return {0.5: a * 0, 1.5: torch.log1p(a), 2.5: torch.log1p(a + a**2 / 3)}[self.nu] - a

    def companion(self) -> Kernel:
        """Return bandwidth^2 Matern(5/2, sqrt(5/3) bandwidth) for nu = 3/2; nu = 1/2 is Laplace; there is none for 5/2."""
        bandwidth = float(self.bandwidth)
        if self.nu == 0.5:
            return _companion_of_laplace(bandwidth)
        if self.nu == 1.5:
            return Mixture([Matern(2.5, math.sqrt(5 / 3) * bandwidth)], [bandwidth**2])
        return super().companion()

    def compiled_profile(self) -> Term:
        """Return a `Decay`."""
        if self.nu == 0.5:
            return _exponential_decay(1 / float(self.bandwidth))
        a = math.sqrt(2 * self.nu) / float(self.bandwidth)
        if self.nu == 1.5:
            return Term(Decay(-a * LOG2E, 1.0, a, 0.0, 1.0, 0.0, 0.0), 1.0, -(a**2))
        return Term(Decay(-a * LOG2E, 1.0, a, a**2 / 3, 1.0, a, 0.0), 1.0, -(a**2) / 3)

    def spectral_variances(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw 2 nu / (bandwidth^2 chi^2) with 2 nu degrees of freedom: the spectral measure is Student's t. Not for nu = 1/2."""
        if self.nu == 0.5:  # Cauchy frequencies: their slopes have no mean
            return super().spectral_variances(count, generator)
        degrees = round(2 * self.nu)  # the spectral measure is Student's t
        return degrees / (float(self.bandwidth) ** 2 * chi2(count, degrees, generator))
