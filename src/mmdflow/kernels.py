r"""Positive (or conditionally positive) definite kernels on [n, *event] tensors, with analytic gradients.

A kernel is three primitives in plain torch, of which the first and last are differentiable:

* ``kernel(x, y)``: the Gram matrix k(x_i, y_j), [n, m];
* ``kernel.grad(x, y, weights)``: sum_j w_ij grad_1 k(x_i, y_j), shaped like x;
* ``kernel.diag(x)``: k(x_i, x_i), [n];

and, for kernels with a finite feature map, ``kernel.embed(x)`` = psi(x) with k(x, y) = <psi(x), psi(y)>, which makes every
sum over particles O(n). Kernels compose with ``+``, ``*`` and ``scalar *``; ``Deep(base, features)`` embeds first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.errors import InputError

#: A positive parameter of a kernel: a number, or a scalar tensor (an nn.Parameter is learned).
Parameter: TypeAlias = float | Tensor

#: Up to this dimension distances are sums of exact differences; above, a centred matrix product, refined where it cancels.
EXACT_DIM = 16


class Kernel(nn.Module):
    """A kernel k(x, y) on events of any shape. Subclasses give `forward`, `grad` and `diag` (and `embed` if finite)."""

    def forward(self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]) -> Float[Tensor, "n m"]:
        """Return the Gram matrix k(x_i, y_j)."""
        raise NotImplementedError

    def grad(
        self, x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"], weights: Float[Tensor, "#n m"]
    ) -> Float[Tensor, "n *event"]:
        """Return sum_j weights_ij grad_1 k(x_i, y_j)."""
        raise NotImplementedError

    def diag(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return k(x_i, x_i)."""
        raise NotImplementedError

    @property
    def finite(self) -> bool:
        """Whether `embed` gives a finite feature map."""
        return False

    def embed(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n K"] | None:
        """Return a finite feature map psi with k(x, y) = <psi(x), psi(y)>, or None where there is none."""
        return None

    def __add__(self, other: Kernel) -> Mixture:
        return Mixture([self, other])

    def __mul__(self, other: Kernel | float) -> Kernel:
        return Product(self, other) if isinstance(other, Kernel) else Mixture([self], [other])

    __rmul__ = __mul__


def _flat(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return |x_i - y_j|^2, accurate also where points nearly coincide; exactly 0 where they do.

    For d <= 16 the differences are formed. Above, both sets are centred, the norms and the product give a first value, and
    the pairs in which it cancels (below sqrt(eps) of the norms) are computed again from their differences.
    """
    if x.shape[1] <= EXACT_DIM:
        if not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)):
            return torch.cdist(
                x, y, compute_mode="donot_use_mm_for_euclid_dist"
            ).square()  # one pass over the differences
        total = (x[:, 0, None] - y[None, :, 0]).square()
        for k in range(1, x.shape[1]):
            total = total + (x[:, k, None] - y[None, :, k]).square()
        return total
    centre = y.detach().mean(0)
    x, y = x - centre, y - centre
    norms = x.square().sum(1)[:, None] + y.square().sum(1)[None, :]
    product = norms - 2 * x @ y.T
    close = product.detach() <= 4 * math.sqrt(torch.finfo(x.dtype).eps) * norms.detach()
    i, j = close.nonzero(as_tuple=True)
    if i.numel() == 0:
        return product
    block = max(1, 2**22 // x.shape[1])
    exact = torch.cat([(x[a] - y[b]).square().sum(1) for a, b in zip(i.split(block), j.split(block), strict=True)])
    return product.index_put((i, j), exact)


class Radial(Kernel):
    """A kernel of |x - y|^2. Subclasses give `profile` and `slope`, with grad_1 k(x, y) = slope(|x-y|^2) (x - y)."""

    def profile(self, r2: Tensor, dim: int) -> Tensor:
        """Return k as a function of the squared distance in dimension `dim`."""
        raise NotImplementedError

    def slope(self, r2: Tensor, dim: int) -> Tensor:
        """Return 2 dk/d(r2); 0 at r2 = 0 where that is not finite."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix k(x_i, y_j), [n, m]."""
        x, y = _flat(x), _flat(y)
        return self.profile(squared_distances(x, y), x.shape[1])

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x."""
        flat_x, flat_y = _flat(x), _flat(y)
        dim = flat_x.shape[1]
        s = self.slope(squared_distances(flat_x, flat_y), dim) * weights
        if dim <= EXACT_DIM:
            columns = [(s * (flat_x[:, k, None] - flat_y[None, :, k])).sum(1) for k in range(dim)]
            return torch.stack(columns, 1).reshape(x.shape)
        centre = flat_y.mean(0)
        return (s.sum(1, keepdim=True) * (flat_x - centre) - s @ (flat_y - centre)).reshape(x.shape)

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return self.profile(x.new_zeros(x.shape[0]), x[0].numel())

    def _set(self, name: str, value: Parameter) -> None:
        """Keep a positive parameter: a number as it is (no rounding to float32), a tensor as buffer or parameter."""
        if isinstance(value, Tensor):
            if value.numel() != 1 or not bool(((value > 0) & torch.isfinite(value)).all()):
                raise InputError(f"{name} = {value.tolist()}: must be one finite number > 0")
            if isinstance(value, nn.Parameter):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)
        else:
            setattr(self, name, _checks.positive(name, value))


def _where_positive(r2: Tensor, function: Callable[[Tensor], Tensor], at_zero: float) -> Tensor:
    """function(r2) where r2 > 0, `at_zero` elsewhere, with no NaN in any derivative."""
    zero = r2 == 0
    return torch.where(zero, torch.full_like(r2, at_zero), function(torch.where(zero, torch.ones_like(r2), r2)))


def _distance(r2: Tensor) -> Tensor:
    return _where_positive(r2, torch.sqrt, 0.0)


class Gaussian(Radial):
    r"""k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)); times bandwidth^-d with ``normalized=True`` (DMMD paper, Prop. 3.1).

    Example:
        >>> import torch
        >>> Gaussian(1.0)(torch.zeros(1, 2), torch.ones(1, 2))
        tensor([[0.3679]])
    """

    bandwidth: Parameter

    def __init__(self, bandwidth: Parameter, *, normalized: bool = False) -> None:
        super().__init__()
        self._set("bandwidth", bandwidth)
        self.normalized = normalized

    def profile(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        value = torch.exp(-r2 / (2 * self.bandwidth**2))
        return value * self.bandwidth ** (-dim) if self.normalized else value

    def slope(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        return -self.profile(r2, dim) / self.bandwidth**2


class Laplace(Radial):
    r"""k(x, y) = exp(-|x - y| / bandwidth)."""

    bandwidth: Parameter

    def __init__(self, bandwidth: Parameter) -> None:
        super().__init__()
        self._set("bandwidth", bandwidth)

    def profile(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        return torch.exp(-_distance(r2) / self.bandwidth)

    def slope(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        return -_where_positive(r2, lambda s: torch.exp(-s.sqrt() / self.bandwidth) / s.sqrt(), 0.0) / self.bandwidth


class Matern(Radial):
    r"""The Matern kernel of smoothness ``nu`` in {1/2, 3/2, 5/2}; with a = sqrt(2 nu) |x - y| / bandwidth,

    exp(-a), (1 + a) exp(-a), (1 + a + a^2/3) exp(-a) (Rasmussen and Williams 2006, eq. 4.17).
    """

    bandwidth: Parameter

    def __init__(self, nu: float, bandwidth: Parameter) -> None:
        super().__init__()
        if nu not in (0.5, 1.5, 2.5):
            raise InputError(f"nu = {nu!r}: must be one of 0.5, 1.5, 2.5")
        self.nu = float(nu)
        self._set("bandwidth", bandwidth)

    def profile(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        a = math.sqrt(2 * self.nu) * _distance(r2) / self.bandwidth
        polynomial = torch.ones_like(a) if self.nu == 0.5 else 1 + a + (a**2 / 3 if self.nu == 2.5 else 0)
        return polynomial * torch.exp(-a)

    def slope(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        if self.nu == 0.5:
            decay = _where_positive(r2, lambda s: torch.exp(-s.sqrt() / self.bandwidth) / s.sqrt(), 0.0)
            return -decay / self.bandwidth
        a = math.sqrt(2 * self.nu) * _distance(r2) / self.bandwidth
        polynomial = 3.0 if self.nu == 1.5 else 5 / 3 * (1 + a)
        return -polynomial * torch.exp(-a) / self.bandwidth**2


class InverseMultiquadric(Radial):
    r"""k(x, y) = (scale^2 + |x - y|^2)^(-1/2)."""

    scale: Parameter

    def __init__(self, scale: Parameter) -> None:
        super().__init__()
        self._set("scale", scale)

    def profile(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        return (self.scale**2 + r2) ** -0.5

    def slope(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        return -((self.scale**2 + r2) ** -1.5)


class RationalQuadratic(Radial):
    r"""k(x, y) = (1 + |x - y|^2 / (2 alpha scale^2))^-alpha (Binkowski et al. 2018 mix several alpha; use ``+``)."""

    alpha: Parameter
    scale: Parameter

    def __init__(self, alpha: Parameter, scale: Parameter = 1.0) -> None:
        super().__init__()
        self._set("alpha", alpha)
        self._set("scale", scale)

    def profile(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        return (1 + r2 / (2 * self.alpha * self.scale**2)) ** (-self.alpha)

    def slope(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        return -((1 + r2 / (2 * self.alpha * self.scale**2)) ** (-self.alpha - 1)) / self.scale**2


class Riesz(Radial):
    r"""k(x, y) = -|x - y|^exponent, exponent in (0, 2); conditionally positive definite. Exponent 1: the energy distance.

    The gradient at coinciding points is 0 (Hertrich et al. 2024).
    """

    def __init__(self, exponent: float = 1.0) -> None:
        super().__init__()
        self.exponent = _checks.interval("exponent", exponent, 0.0, 2.0, "()")

    def profile(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        return -_where_positive(r2, lambda s: s ** (self.exponent / 2), 0.0)

    def slope(self, r2: Tensor, dim: int) -> Tensor:  # noqa: D102
        return -self.exponent * _where_positive(r2, lambda s: s ** (self.exponent / 2 - 1), 0.0)


class Linear(Kernel):
    r"""k(x, y) = <x, y>: the base kernel of DMMD (DMMD paper, eq. 11)."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix <x_i, y_j>, [n, m]."""
        return _flat(x) @ _flat(y).T

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij y_j, shaped like x."""
        return (weights @ _flat(y)).expand(x.shape[0], -1).reshape(x.shape)

    def diag(self, x: Tensor) -> Tensor:
        """Return |x_i|^2, [n]."""
        return _flat(x).square().sum(1)

    @property
    def finite(self) -> bool:
        """Yes: x itself."""
        return True

    def embed(self, x: Tensor) -> Tensor:
        """Return x flattened, [n, d]."""
        return _flat(x)


class Polynomial(Kernel):
    r"""k(x, y) = (gamma <x, y> + constant)^degree, with an integer degree >= 1, gamma > 0 and constant >= 0."""

    def __init__(self, degree: int = 3, gamma: float = 1.0, constant: float = 1.0) -> None:
        super().__init__()
        self.degree = _checks.count("degree", degree)
        self.gamma = _checks.positive("gamma", gamma)
        self.constant = _checks.non_negative("constant", constant)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix, [n, m]."""
        return (self.gamma * _flat(x) @ _flat(y).T + self.constant) ** self.degree

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x."""
        base = self.gamma * _flat(x) @ _flat(y).T + self.constant
        slope = self.degree * self.gamma * base ** (self.degree - 1)
        return ((weights * slope) @ _flat(y)).reshape(x.shape)

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return (self.gamma * _flat(x).square().sum(1) + self.constant) ** self.degree


class Mixture(Kernel):
    """sum_l weights_l k_l; ``k1 + k2`` and ``2.0 * k`` build it. Weights default to 1 and may not be negative."""

    def __init__(self, kernels: Sequence[Kernel], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not kernels:
            raise InputError("kernels = []: must hold at least one kernel")
        weights = [1.0] * len(kernels) if weights is None else list(weights)
        if len(weights) != len(kernels):
            raise InputError(f"weights has {len(weights)} entries: must have {len(kernels)}, one a kernel")
        self.kernels = nn.ModuleList(kernels)
        self.weights = [_checks.non_negative("weights", w) for w in weights]

    def _sum(self, term: Callable[[Kernel], Tensor]) -> Tensor:
        parts = [w * term(k) for k, w in zip(self._members(), self.weights, strict=True)]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def _members(self) -> list[Kernel]:
        return [k for k in self.kernels if isinstance(k, Kernel)]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix, [n, m]."""
        return self._sum(lambda k: k(x, y))

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x."""
        return self._sum(lambda k: k.grad(x, y, weights))

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return self._sum(lambda k: k.diag(x))

    @property
    def finite(self) -> bool:
        """Whether all members' feature maps are."""
        return all(kernel.finite for kernel in self._members())

    def embed(self, x: Tensor) -> Tensor | None:
        """Return the members' feature maps side by side when all are finite."""
        if not self.finite:
            return None
        maps = []
        for kernel, weight in zip(self._members(), self.weights, strict=True):
            features = kernel.embed(x)
            assert features is not None
            maps.append(math.sqrt(weight) * features)
        return torch.cat(maps, 1)


class Product(Kernel):
    """k1(x, y) k2(x, y); ``k1 * k2`` builds it."""

    def __init__(self, first: Kernel, second: Kernel) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix, [n, m]."""
        return self.first(x, y) * self.second(x, y)

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x (the product rule)."""
        return self.first.grad(x, y, weights * self.second(x, y)) + self.second.grad(x, y, weights * self.first(x, y))

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return self.first.diag(x) * self.second.diag(x)


class Deep(Kernel):
    r"""k(x, y) = base(phi(x), phi(y)) for learned or fixed features phi: [n, *event] -> [n, K] (DMMD paper, eq. 2).

    Args:
        base: the kernel on features.
        features: a module or function phi.
    """

    def __init__(self, base: Kernel, features: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.base = base
        self.features = features

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Gram matrix, [n, m]."""
        return self.base(self.features(x), self.features(y))

    def grad(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x: the base's gradient pulled back through phi."""
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            phi = self.features(z)
        with torch.no_grad():
            cotangent = self.base.grad(phi, self.features(y), weights)
        return torch.autograd.grad(phi, z, cotangent)[0]

    def diag(self, x: Tensor) -> Tensor:
        """Return k(x_i, x_i), [n]."""
        return self.base.diag(self.features(x))

    @property
    def finite(self) -> bool:
        """Whether the base's feature map is."""
        return self.base.finite

    def embed(self, x: Tensor) -> Tensor | None:
        """Return the base's feature map of phi(x) when it has a finite one."""
        return self.base.embed(self.features(x)) if self.finite else None


def median_bandwidth(x: Float[Tensor, "n *event"], max_points: int = 1000) -> float:
    """Return the median heuristic: the median of |x_i - x_j|, i < j, over the first `max_points` points."""
    flat = _flat(_checks.points("x", x))[:max_points]
    if flat.shape[0] < 2:
        raise InputError("x has 1 point: the median heuristic needs at least 2")
    rows, columns = torch.triu_indices(len(flat), len(flat), offset=1)
    median = float(squared_distances(flat, flat)[rows, columns].median().sqrt())
    return _checks.positive("median distance of x (are most points equal?)", median)


def optimal_bandwidth(mean_norm: float, dim: int, sigma: float) -> float:
    r"""Return the bandwidth that moves one Gaussian fastest towards another: DMMD paper, Proposition 3.1.

    For N(0, sigma^2 I) and N(mu, sigma^2 I) in dimension `dim` and the normalised Gaussian kernel,
    a* = ReLU(|mu|^2 / (dim + 2) - 2 sigma^2)^(1/2). It is 0 once |mu|^2 <= 2 sigma^2 (dim + 2).

    Args:
        mean_norm: |mu|, at least 0.
        dim: the dimension, at least 1.
        sigma: the common standard deviation, positive.

    Example:
        >>> round(optimal_bandwidth(mean_norm=5.0, dim=1, sigma=1.0), 6)
        2.516611
    """
    mean_norm = _checks.non_negative("mean_norm", mean_norm)
    return math.sqrt(
        max(0.0, mean_norm**2 / (_checks.count("dim", dim) + 2) - 2 * _checks.positive("sigma", sigma) ** 2)
    )
