"""What kernels of the distance |x - y| share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._precision import usual
from mmdflow._tensors import flat
from mmdflow.errors import InputError
from mmdflow.kernels.base import Kernel, keeps_up
from mmdflow.kernels.distances import Differences, squared_distances
from mmdflow.kernels.profiles import Term
from mmdflow.types import Step

#: A positive parameter of a kernel: a number, or a scalar tensor (an nn.Parameter is learned).
Parameter: TypeAlias = float | Tensor

#: The largest bandwidth: its fourth power is in the range of float64.
_LARGEST = 1e75


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
    def flatness(self) -> float | None:
        """width^2 / k(0), of the bandwidth or scale; None without one, or where k(0) follows the number of entries."""
        width = getattr(self, "bandwidth", getattr(self, "scale", None))
        if width is None or getattr(self, "normalized", False):
            return None
        return float(width) ** 2 / float(self.profile(torch.zeros((), dtype=torch.float64)).detach())

    def usual_step(self, spread: float) -> Step | None:
        """Return 2 width^2 / k(0): the curvature of F with a bounded kernel is about k(0) / width^2."""
        flatness = self.flatness
        return None if flatness is None else Step(2 * flatness)

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
        if size > _LARGEST:
            raise InputError(f"{name} = {size:g}: must be at most {_LARGEST:g}; take other units")
        self.extreme = self.extreme or not usual(size)


def exp(x: Tensor) -> Tensor:
    """Return e^x, 0 below 1e8 times the least normal number: arithmetic on denormal ones is an order of magnitude slower."""
    if torch.finfo(x.dtype).bits < 32:  # float16 has no digits to spare there
        return torch.exp(x)
    return torch.exp(nn.functional.threshold(x, math.log(1e8 * torch.finfo(x.dtype).tiny), -math.inf))


def where_positive(r2: Tensor, function: Callable[[Tensor], Tensor], at_zero: float) -> Tensor:
    """function(r2) where r2 > 0, `at_zero` elsewhere, with no NaN in any derivative."""
    zero = r2 == 0
    return torch.where(zero, torch.full_like(r2, at_zero), function(torch.where(zero, torch.ones_like(r2), r2)))


def distance(r2: Tensor) -> Tensor:
    """The square root of r2, with derivatives 0 at r2 = 0."""
    return where_positive(r2, torch.sqrt, 0.0)


def chi2(count: int, degrees: int, generator: torch.Generator | None) -> Tensor:
    """Draw chi^2 numbers, in float64."""
    return torch.randn(count, degrees, dtype=torch.float64, generator=generator).square().sum(1)
