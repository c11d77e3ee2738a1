"""Functions of two samples."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _arrays, _checks, ops
from mmdflow._precision import full_precision, leaves_range, widened
from mmdflow.errors import InputError
from mmdflow.kernels import Deep, Kernel, Riesz
from mmdflow.kernels.base import keeps_up
from mmdflow.types import ArrayLike


@full_precision
def mmd2(
    x: Float[Tensor, "n *event"] | ArrayLike,
    y: Float[Tensor, "m *event"] | ArrayLike,
    kernel: Kernel,
    *,
    unbiased: bool = True,
) -> Float[Tensor, ""] | ArrayLike:
    r"""Return an estimate of MMD^2 between two samples, differentiable in x, y and the kernel (Gretton et al. 2012).

    unbiased: sum_{i!=j} k(x_i,x_j)/(n(n-1)) + sum_{i!=j} k(y_i,y_j)/(m(m-1)) - 2 mean k(x,y) (U-statistic; may be negative);
    otherwise the V-statistic with all pairs and 1/n^2, 1/m^2, which is never negative. O(n + m) for kernels with a finite feature
    map. Kernels that grow with the distance from the origin keep their digits there: feature maps are centred, and the sums of a
    `Polynomial` are taken in float64.

    Raises:
        InputError: if shapes differ, entries are not finite, or a sample has one point and unbiased is True.

    Example:
        >>> import torch
        >>> from mmdflow import Linear
        >>> mmd2(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]), Linear(), unbiased=False)
        tensor(9.)
    """
    give_back = _arrays.back(x, y)
    x, y = _checks.samples("x", x, "y", y)
    if unbiased and min(len(x), len(y)) < 2:
        raise InputError(f"unbiased = True with samples of {len(x)} and {len(y)} points: each needs at least 2")
    value = _mmd2(kernel, x, y, unbiased)
    if not unbiased and (kernel.positive or isinstance(kernel, Riesz)):
        value = value - value.detach().clamp_max(0)  # rounding alone takes it below 0; the gradient stays
    return give_back(value.to(x.dtype))


@full_precision
def mmd2_of_features(
    phi_x: Float[Tensor, "n K"] | ArrayLike, phi_y: Float[Tensor, "m K"] | ArrayLike, *, unbiased: bool = True
) -> Float[Tensor, ""] | ArrayLike:
    r"""Return MMD^2 of the linear kernel between two samples of features, in O(n + m), differentiable.

    The V-statistic is |mean phi_x - mean phi_y|^2. The U-statistic is that less tr S_x / n and tr S_y / m, with S the unbiased
    covariances. Both are taken of features less a common shift, so that they keep their digits far from the origin.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[1000.0], [1002.0]]), torch.tensor([[1003.0], [1005.0]])
        >>> mmd2_of_features(x, y, unbiased=False), mmd2_of_features(x, y)
        (tensor(9.), tensor(7.))
    """
    give_back = _arrays.back(phi_x, phi_y)
    phi_x, phi_y = _checks.samples("phi_x", phi_x, "phi_y", phi_y)
    return give_back(_of_features(phi_x, phi_y, unbiased).to(phi_x.dtype))


def _of_features(phi_x: Tensor, phi_y: Tensor, unbiased: bool) -> Tensor:
    x, y = widened(phi_x), widened(phi_y)
    if leaves_range(x, y):
        x, y = x.double(), y.double()
    shift = y.detach().mean(0)
    x, y = x - shift, y - shift
    at_x, at_y = x.mean(0), y.mean(0)
    value = (at_x - at_y).square().sum()
    if unbiased:
        for features, mean in ((x, at_x), (y, at_y)):
            value = value - (features - mean).square().sum() / (len(features) * (len(features) - 1))
    return value


@full_precision
def mmd2_by_sums(
    x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"], kernel: Kernel, *, unbiased: bool = True
) -> Float[Tensor, ""]:
    """Return MMD^2 from three sums of the kernel: right for kernels that do not grow, such as those of the distance."""
    cross = ops.kernel_sum(kernel, x, y, y.new_full((len(y),), 1 / len(y))).mean()
    return _within(x, kernel, unbiased) + _within(y, kernel, unbiased) - 2 * cross


def _mmd2(kernel: Kernel, x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    """Choose a form that keeps its digits."""
    if (kernel.finite or kernel.grows) and keeps_up(kernel, "sum_by_parts", "forward"):
        # before the feature map of the whole, whose factors round features that lie far from the origin
        by_parts = kernel.sum_by_parts(lambda part, a, b: _mmd2(part, a, b, unbiased), x, y)
        if by_parts is not None:
            return by_parts
    if kernel.finite:
        return _of_features(kernel.embed(x), kernel.embed(y), unbiased).to(x.dtype)
    if isinstance(kernel, Deep):  # whose sums would be rounded to the network's dtype
        return _mmd2(kernel.base, kernel.features(x), kernel.features(y), unbiased)
    if kernel.any_dtype:
        wide = torch.float64 if kernel.grows else torch.promote_types(x.dtype, torch.float32)
        x, y = x.to(wide), y.to(wide)
    return mmd2_by_sums(x, y, kernel, unbiased=unbiased)


def _within(x: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    n = len(x)
    total = ops.kernel_sum(kernel, x, x, x.new_ones(n)).sum()
    return (total - kernel.diag(x).sum()) / (n * (n - 1)) if unbiased else total / n**2
