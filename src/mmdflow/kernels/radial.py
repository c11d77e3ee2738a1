"""Kernels of the distance |x - y|."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._precision import usual
from mmdflow._tensors import flat
from mmdflow.errors import InputError
from mmdflow.kernels.base import Kernel, Mixture, keeps_up
from mmdflow.kernels.distances import Differences, squared_distances
from mmdflow.kernels.profiles import LOG2E, Decay, Distance, Exponential, InverseRoot, Power, Term
from mmdflow.types import Step

#: A positive parameter of a kernel: a number, or a scalar tensor (an nn.Parameter is learned).
Parameter: TypeAlias = float | Tensor


class Radial(Kernel):
    """A kernel of |x - y|^2: subclasses give `profile`, `slope` and, where smooth, `curvature`.

    grad_1 k(x, y) = slope (x - y), and the mixed second derivative is -slope I - curvature (x - y)(x - y)^T. A class that also
    gives `compiled_profile` is summed by the compiled backends. A subclass keeps that, unless it changes the formula: then it
    gives its own, or is summed in plain torch.
    """

    any_dtype = True

    def profile(self, r2: Tensor) -> Tensor:
        """Return k as a function of the squared distance."""
        raise NotImplementedError

    def slope(self, r2: Tensor) -> Tensor:
        """Return 2 dk/d(r2); 0 at r2 = 0 where that is not finite."""
        raise NotImplementedError

    def curvature(self, r2: Tensor) -> Tensor:
        """Return 2 d slope/d(r2); 0 at r2 = 0 where that is not finite."""
        raise NotImplementedError

    def compiled_profile(self) -> Term | None:
        """Return the profile and the slope as numbers for the compiled backends, or None: they cannot be written so."""
        return None

    def for_events(self, dim: int, dtype: torch.dtype) -> Radial:
        """Return the kernel on events of `dim` entries: itself, unless its formula holds their number."""
        return self

    def compiled_term(self, dim: int, dtype: torch.dtype) -> Term | None:
        """Return the compiled profile on events of `dim` entries, or None: there is none, or it leaves the type's range."""
        if not keeps_up(self, "compiled_profile", "profile", "slope", "forward", "grad"):
            return None
        try:
            term = self.for_events(dim, dtype).compiled_profile()
        except (ZeroDivisionError, OverflowError):
            return None
        return term if term is not None and term.fits(dtype) else None

    @property
    def width(self) -> float | None:
        """The bandwidth, or the scale; None for a kernel that has neither."""
        value = getattr(self, "bandwidth", getattr(self, "scale", None))
        return None if value is None else float(value)

    def usual_step(self, spread: float) -> Step | None:
        """Return 2 width^2: the curvature of F with a bounded kernel is about 1 / width^2."""
        return None if self.width is None or getattr(self, "normalized", False) else Step(2 * self.width**2)

    def log_profile(self, r2: Tensor) -> Tensor:
        """Return log k as a function of the squared distance; kernels of one exponential know it where k underflows."""
        return self.profile(r2).log()

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k(x_i, y_j), [n, m]."""
        x, y = flat(x), flat(y)
        kernel = self._on(x)
        r2 = squared_distances(x, y)
        return kernel.log_profile(r2) if keeps_up(self, "log_profile", "profile") else kernel.profile(r2).log()

    def spectral_variances(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, " count"]:
        """Draw variances v, in float64, so that frequencies w ~ N(0, v I) give k(x, y) = k(0) E cos<w, x - y>."""
        raise InputError(
            f"kernel = {type(self).__name__}: must be smooth and a scale mixture of Gaussians (Gaussian, Matern 3/2 or 5/2, "
            f"InverseMultiquadric, RationalQuadratic)"
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix k(x_i, y_j), [n, m]."""
        x, y = flat(x), flat(y)
        return self._on(x).profile(squared_distances(x, y))

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x."""
        differences = Differences(flat(x), flat(y))
        slope = self._on(differences.x).slope(differences.squared)
        return differences.sum(slope * weights).reshape(x.shape)

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return self._on(flat(x)).profile(x.new_zeros(x.shape[0]))

    def tangent(self, x: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
        """Return sum_j <vectors_j, grad_2 k(x_i, y_j)>, [n]."""
        differences = Differences(flat(x), flat(y))
        slope = self._on(differences.x).slope(differences.squared)
        return -(slope * differences.along(flat(vectors))).sum(1)

    def tangent_grad(self, x: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
        """Return the gradient in x_i of `tangent`, shaped like x."""
        differences, flat_v = Differences(flat(x), flat(y)), flat(vectors)
        kernel, r2 = self._on(differences.x), differences.squared
        pull = differences.sum(kernel.curvature(r2) * differences.along(flat_v))
        return -(kernel.slope(r2) @ flat_v + pull).reshape(x.shape)

    def mixed(self, x: Tensor, y: Tensor) -> Tensor:
        """Return all mixed second derivatives, [n, d, m, d]."""
        flat_x, flat_y = flat(x), flat(y)
        r2, kernel = squared_distances(flat_x, flat_y), self._on(flat_x)
        difference = flat_x[:, None] - flat_y[None]  # [n, m, d]
        outer = torch.einsum("nm,nma,nmb->namb", kernel.curvature(r2), difference, difference)
        eye = torch.eye(flat_x.shape[1], dtype=x.dtype, device=x.device)
        return -(outer + torch.einsum("nm,ab->namb", kernel.slope(r2), eye))

    def _on(self, x: Float[Tensor, "n d"]) -> Radial:
        return self.for_events(x.shape[1], x.dtype)

    def _set(self, name: str, value: Parameter) -> None:
        """Keep a positive parameter: a number as it is (no rounding to float32), a tensor as buffer or parameter."""
        if isinstance(value, Tensor):
            if value.numel() != 1 or not bool(((value > 0) & torch.isfinite(value)).all()):
                shown = value.item() if value.numel() == 1 else _checks.shown(value)
                raise InputError(f"{name} = {shown}: must be one finite number > 0")
            if isinstance(value, nn.Parameter):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)
        else:
            setattr(self, name, _checks.positive(name, value))
        size = float(value.detach() if isinstance(value, Tensor) else value)
        self.extreme = self.extreme or not usual(size)


def _exp(x: Tensor) -> Tensor:
    """exp(x), 0 below 1e8 times the least normal number: arithmetic on denormal ones is an order of magnitude slower."""
    if torch.finfo(x.dtype).bits < 32:  # float16 has no digits to spare there
        return torch.exp(x)
    return torch.exp(nn.functional.threshold(x, math.log(1e8 * torch.finfo(x.dtype).tiny), -math.inf))


def _where_positive(r2: Tensor, function: Callable[[Tensor], Tensor], at_zero: float) -> Tensor:
    """function(r2) where r2 > 0, `at_zero` elsewhere, with no NaN in any derivative."""
    zero = r2 == 0
    return torch.where(zero, torch.full_like(r2, at_zero), function(torch.where(zero, torch.ones_like(r2), r2)))


def _distance(r2: Tensor) -> Tensor:
    return _where_positive(r2, torch.sqrt, 0.0)


def _chi2(count: int, degrees: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(count, degrees, dtype=torch.float64, generator=generator).square().sum(1)


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
        return _exp(self.log_factor - r2 / (2 * self.bandwidth**2))

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
        return _exp(-_distance(r2) / self.bandwidth)

    def slope(self, r2: Tensor) -> Tensor:
        """Return -exp(-r / bandwidth) / (bandwidth r); 0 at r = 0."""
        return -_where_positive(r2, lambda s: _exp(-s.sqrt() / self.bandwidth) / s.sqrt(), 0.0) / self.bandwidth

    def log_profile(self, r2: Tensor) -> Tensor:
        """Return -r / bandwidth."""
        return -_distance(r2) / self.bandwidth

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
            return _exp(-_distance(r2) / self.bandwidth)
        zero = r2 == 0
        a = math.sqrt(2 * self.nu) * torch.where(zero, torch.ones_like(r2), r2).sqrt() / self.bandwidth
        value = (1 + a + (a**2 / 3 if self.nu == 2.5 else 0)) * _exp(-a)
        # at r2 = 0 the kernel is 1 + slope(0) r2 / 2: written so, its derivatives there are right too
        at_zero = -self.nu / (self.nu - 1) / (2 * self.bandwidth**2)
        return torch.where(zero, 1 + at_zero * r2, value)

    def slope(self, r2: Tensor) -> Tensor:
        """Return 2 dk/d(r2); for nu = 1/2 0 at r = 0."""
        if self.nu == 0.5:
            decay = _where_positive(r2, lambda s: _exp(-s.sqrt() / self.bandwidth) / s.sqrt(), 0.0)
            return -decay / self.bandwidth
        a = math.sqrt(2 * self.nu) * _distance(r2) / self.bandwidth
        polynomial = 3.0 if self.nu == 1.5 else 5 / 3 * (1 + a)
        return -polynomial * _exp(-a) / self.bandwidth**2

    def curvature(self, r2: Tensor) -> Tensor:
        """Return 2 d slope/d(r2), for nu = 3/2 (0 at r = 0) and 5/2."""
        scale = math.sqrt(2 * self.nu) / self.bandwidth
        if self.nu == 2.5:
            return 25 / 3 * _exp(-scale * _distance(r2)) / self.bandwidth**4
        return 3 / self.bandwidth**2 * _where_positive(r2, lambda s: scale * _exp(-scale * s.sqrt()) / s.sqrt(), 0.0)

    def log_profile(self, r2: Tensor) -> Tensor:
        """Return the logarithm of the polynomial, less sqrt(2 nu) r / bandwidth."""
        a = math.sqrt(2 * self.nu) * _distance(r2) / self.bandwidth
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
        return degrees / (float(self.bandwidth) ** 2 * _chi2(count, degrees, generator))


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
        return _chi2(count, 1, generator) / float(self.scale) ** 2


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
        return -_where_positive(r2, lambda s: s ** (self.exponent / 2), 0.0)

    def slope(self, r2: Tensor) -> Tensor:
        """Return -exponent r^(exponent - 2); 0 at r = 0."""
        return -self.exponent * _where_positive(r2, lambda s: s ** (self.exponent / 2 - 1), 0.0)

    def usual_step(self, spread: float) -> Step:
        """Return 0.3 spread^(2 - exponent), with momentum 0.9: it moves particles alike at every scale of the data."""
        return Step(0.3 * spread ** (2 - self.exponent), 0.9)

    def compiled_profile(self) -> Term:
        """Return a `Distance` for exponent 1, else a `Power`."""
        if self.exponent == 1:
            return Term(Distance(), -1.0, -1.0)
        return Term(Power(0.0, 1.0, self.exponent / 2, self.exponent / 2 - 1), -1.0, -self.exponent)
