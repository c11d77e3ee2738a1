"""Kernels that are powers of the distance, or of a polynomial in it: InverseMultiquadric, RationalQuadratic, Riesz."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mmdflow import _checks
from mmdflow.kernels.base import Kernel, Mixture
from mmdflow.kernels.profiles import Distance, InverseRoot, Power, Term
from mmdflow.kernels.radial import Parameter, Radial, chi2, where_positive
from mmdflow.types import Step


class InverseMultiquadric(Radial):
    r"""k(x, y) = (scale^2 + |x - y|^2)^(-1/2).

    Example:
        >>> import torch
        >>> from mmdflow import InverseMultiquadric
        >>> InverseMultiquadric(1.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 2.0]]))
        tensor([[0.3333]])
    """

    scale: Parameter

    def __init__(self, scale: Parameter) -> None:
        super().__init__()
        self._set("scale", scale)

    def profile(self, r2: Tensor) -> Tensor:
        """Return (scale^2 + r2)^(-1/2)."""
        return (self.scale**2 + r2) ** -0.5

    def slope(self, r2: Tensor) -> Tensor:
        """Return -(scale^2 + r2)^(-3/2)."""
        return -((self.scale**2 + r2) ** -1.5)

    def curvature(self, r2: Tensor) -> Tensor:
        """Return 3 (scale^2 + r2)^(-5/2)."""
        return 3 * (self.scale**2 + r2) ** -2.5

    def compiled_profile(self) -> Term:
        """Return an `InverseRoot`."""
        return Term(InverseRoot(float(self.scale) ** 2), 1.0, -1.0)

    def spectral_variances(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw chi^2 / scale^2 with one degree of freedom."""
        return chi2(count, 1, generator) / float(self.scale) ** 2


class RationalQuadratic(Radial):
    r"""k(x, y) = (1 + |x - y|^2 / (2 alpha scale^2))^-alpha (Binkowski et al. 2018 mix several alpha; use ``+``).

    Example:
        >>> import torch
        >>> from mmdflow import RationalQuadratic
        >>> RationalQuadratic(1.0)(torch.tensor([[0.0]]), torch.tensor([[2.0]]))
        tensor([[0.3333]])
    """

    alpha: Parameter
    scale: Parameter

    def __init__(self, alpha: Parameter, scale: Parameter = 1.0) -> None:
        super().__init__()
        self._set("alpha", alpha)
        self._set("scale", scale)

    def profile(self, r2: Tensor) -> Tensor:
        """Return (1 + r2 / (2 alpha scale^2))^-alpha."""
        return (1 + r2 / (2 * self.alpha * self.scale**2)) ** (-self.alpha)

    def slope(self, r2: Tensor) -> Tensor:
        """Return -(1 + r2 / (2 alpha scale^2))^(-alpha - 1) / scale^2."""
        return -((1 + r2 / (2 * self.alpha * self.scale**2)) ** (-self.alpha - 1)) / self.scale**2

    def curvature(self, r2: Tensor) -> Tensor:
        """Return (1 + 1 / alpha) (1 + r2 / (2 alpha scale^2))^(-alpha - 2) / scale^4."""
        base = 1 + r2 / (2 * self.alpha * self.scale**2)
        return (self.alpha + 1) / self.alpha * base ** (-self.alpha - 2) / self.scale**4

    def companion(self) -> Kernel:
        """Return scale^2 q RationalQuadratic(alpha - 1, scale sqrt(q)), q = alpha / (alpha - 1), for alpha > 1."""
        alpha, scale = float(self.alpha), float(self.scale)
        if alpha <= 1:
            return super().companion()
        ratio = alpha / (alpha - 1)
        return Mixture([RationalQuadratic(alpha - 1, scale * math.sqrt(ratio))], [scale**2 * ratio])

    def compiled_profile(self) -> Term:
        """Return a `Power`."""
        alpha, scale = float(self.alpha), float(self.scale)
        return Term(Power(1.0, 1 / (2 * alpha * scale**2), -alpha, -alpha - 1), 1.0, -1 / scale**2)

    def spectral_variances(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw Gamma(alpha) / (alpha scale^2)."""
        seed = int(torch.randint(2**31, (), generator=generator))
        gamma = torch.from_numpy(np.random.default_rng(seed).gamma(float(self.alpha), size=count))
        return gamma / (float(self.alpha) * float(self.scale) ** 2)


class Riesz(Radial):
    r"""k(x, y) = -|x - y|^exponent, exponent in (0, 2); conditionally positive definite. Exponent 1: the energy distance.

    The gradient at coinciding points is 0 (Hertrich et al. 2024).

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Riesz
        >>> MMD(torch.tensor([[3.0, 4.0]]), Riesz())(torch.zeros(1, 2))  # the distance of two points
        tensor(5.)
    """

    smooth = False
    positive = False

    def __init__(self, exponent: float = 1.0) -> None:
        super().__init__()
        self.exponent = _checks.interval("exponent", exponent, 0.0, 2.0, "()")

    def profile(self, r2: Tensor) -> Tensor:
        """Return -r^exponent."""
        return -where_positive(r2, lambda s: s ** (self.exponent / 2), 0.0)

    def slope(self, r2: Tensor) -> Tensor:
        """Return -exponent r^(exponent - 2); 0 at r = 0."""
        return -self.exponent * where_positive(r2, lambda s: s ** (self.exponent / 2 - 1), 0.0)

    def usual_step(self, spread: float) -> Step:
        """Return 0.3 spread^(2 - exponent), with momentum 0.9: it moves particles alike at every scale of the data."""
        return Step(0.3 * spread ** (2 - self.exponent), 0.9)

    def compiled_profile(self) -> Term:
        """Return a `Distance` for exponent 1, else a `Power`."""
        if self.exponent == 1:
            return Term(Distance(), -1.0, -1.0)
        return Term(Power(0.0, 1.0, self.exponent / 2, self.exponent / 2 - 1), -1.0, -self.exponent)
