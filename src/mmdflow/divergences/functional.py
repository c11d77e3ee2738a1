"""Functions of two samples."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _arrays, _checks, ops
from mmdflow._precision import full_precision, leaves_range, widened
from mmdflow.errors import InputError
from mmdflow.kernels import Deep, Kernel, Riesz
from mmdflow.kernels.base import keeps_up
from mmdflow.kernels.distances import EXACT_DIM
from mmdflow.kernels.radial import Radial
from mmdflow.types import ArrayLike

#: Entries of Gram matrices that are held at once, of a batch of problems.
_ENTRIES = 2**20


@full_precision
def mmd2(
    x: Float[Tensor, "n *event"] | Float[Tensor, "B n *event"] | ArrayLike,
    y: Float[Tensor, "m *event"] | Float[Tensor, "B m *event"] | ArrayLike,
    kernel: Kernel,
    *,
    unbiased: bool = True,
    batched: bool = False,
) -> Float[Tensor, ""] | Float[Tensor, " B"] | ArrayLike:
    r"""Return an estimate of MMD^2 between two samples, differentiable in x, y and the kernel (Gretton et al. 2012).

    unbiased: sum_{i!=j} k(x_i,x_j)/(n(n-1)) + sum_{i!=j} k(y_i,y_j)/(m(m-1)) - 2 mean k(x,y) (U-statistic; may be negative);
    otherwise the V-statistic with all pairs and 1/n^2, 1/m^2, which is never negative. O(n + m) for kernels with a finite feature
    map. Kernels that grow with the distance from the origin keep their digits there: feature maps are centred, and the sums of a
    `Polynomial` are taken in float64.

    Args:
        x: a sample; or with `batched` one for each of B problems, [B, n, *event].
        y: the other, [m, *event] or [B, m, *event].
        kernel: the kernel.
        unbiased: the U-statistic, or the V-statistic.
        batched: take the first axis for that of B problems and return their B values. Small samples are quicker together.

    Raises:
        InputError: if shapes differ, entries are not finite, or a sample has one point and unbiased is True.

    Example:
        >>> import torch
        >>> from mmdflow import Linear
        >>> mmd2(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]), Linear(), unbiased=False)
        tensor(9.)
        >>> x = torch.tensor([[[0.0], [2.0]], [[0.0], [4.0]]])
        >>> mmd2(x, x + 3, Linear(), unbiased=False, batched=True)
        tensor([9., 9.])
    """
    give_back = _arrays.back(x, y)
    x, y = _samples("x", x, "y", y, unbiased, batched)
    value = _of_batch(kernel, x, y, unbiased) if batched else _mmd2(kernel, x, y, unbiased)
    if not unbiased and (kernel.positive or isinstance(kernel, Riesz)):
        value = value - value.detach().clamp_max(0)  # rounding alone takes it below 0; the gradient stays
    return give_back(value.to(x.dtype))


@full_precision
def mmd2_of_features(
    phi_x: Float[Tensor, "n K"] | Float[Tensor, "B n K"] | ArrayLike,
    phi_y: Float[Tensor, "m K"] | Float[Tensor, "B m K"] | ArrayLike,
    *,
    unbiased: bool = True,
    batched: bool = False,
) -> Float[Tensor, ""] | Float[Tensor, " B"] | ArrayLike:
    r"""Return MMD^2 of the linear kernel between two samples of features, in O(n + m), differentiable.

    The V-statistic is |mean phi_x - mean phi_y|^2. The U-statistic is that less tr S_x / n and tr S_y / m, with S the unbiased
    covariances. Both are taken of features less a common shift, so that they keep their digits far from the origin. With
    `batched` the first axis is that of B problems, as of `mmd2`.

    Raises:
        InputError: if shapes differ, entries are not finite, or a sample has one point and unbiased is True.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[1000.0], [1002.0]]), torch.tensor([[1003.0], [1005.0]])
        >>> mmd2_of_features(x, y, unbiased=False), mmd2_of_features(x, y)
        (tensor(9.), tensor(7.))
    """
    give_back = _arrays.back(phi_x, phi_y)
    phi_x, phi_y = _samples("phi_x", phi_x, "phi_y", phi_y, unbiased, batched)
    return give_back(_of_features(phi_x, phi_y, unbiased, batched).to(phi_x.dtype))


def _samples(first: str, x: Any, second: str, y: Any, unbiased: bool, batched: bool) -> tuple[Tensor, Tensor]:
    """Return two samples, or batches of samples, as tensors of one dtype on one device, if they belong together."""
    if not batched:
        x, y = _checks.samples(first, x, second, y)
    else:
        x, y = _arrays.tensor(first, x), _arrays.tensor(second, y)
        if min(x.ndim, y.ndim) < 2 or len(x) != len(y):
            raise InputError(
                f"{first} and {second} have shapes {list(x.shape)} and {list(y.shape)}: must be [B, n, *event] and "
                f"[B, m, *event] with batched = True"
            )
        shapes = x.shape[:2], y.shape[:2]
        x, y = _checks.samples(first, x.flatten(0, 1), second, y.flatten(0, 1))
        x, y = (z.unflatten(0, shape) for z, shape in zip((x, y), shapes, strict=True))
    n, m = (z.shape[int(batched)] for z in (x, y))
    if unbiased and min(n, m) < 2:
        raise InputError(f"unbiased = True with samples of {n} and {m} points: each needs at least 2")
    return x, y


def _of_features(phi_x: Tensor, phi_y: Tensor, unbiased: bool, batched: bool = False) -> Tensor:
    x, y = widened(phi_x), widened(phi_y)
    if leaves_range(x, y):
        x, y = x.double(), y.double()
    rows = int(batched)  # the axis of the points
    shift = y.detach().mean(rows, keepdim=True)
    x, y = (z.flatten(rows + 1) if z.ndim > rows + 1 else z[..., None] for z in (x - shift, y - shift))
    at_x, at_y = x.mean(rows, keepdim=True), y.mean(rows, keepdim=True)
    value = (at_x - at_y).square().sum((-2, -1))
    if unbiased:
        for features, mean in ((x, at_x), (y, at_y)):
            count = features.shape[rows]
            value = value - (features - mean).square().sum((-2, -1)) / (count * (count - 1))
    return value


def _of_batch(kernel: Kernel, x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    """Return the value of each of B problems: of small samples and a kernel of the distance together, else one by one."""
    if _together(kernel, x, y):
        wide = torch.float64 if kernel.grows else torch.promote_types(x.dtype, torch.float32)
        x, y = x.flatten(2).to(wide), y.flatten(2).to(wide)
        size = max(1, _ENTRIES // max(x.shape[1], y.shape[1]) ** 2)
        return torch.cat([_grams(kernel, a, b, unbiased) for a, b in zip(x.split(size), y.split(size), strict=True)])
    return torch.stack([_mmd2(kernel, a, b, unbiased) for a, b in zip(x, y, strict=True)])


def _together(kernel: Kernel, x: Tensor, y: Tensor) -> TypeGuard[Radial]:
    """Whether the Gram matrices of many problems can be held, and are quicker than sums one by one."""
    small = max(x.shape[1], y.shape[1]) ** 2 <= _ENTRIES
    plain = isinstance(kernel, Radial) and not kernel.finite and keeps_up(kernel, "profile", "forward")
    few = x[0, 0].numel() <= EXACT_DIM or not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad))
    return small and plain and few


def _grams(kernel: Radial, x: Float[Tensor, "B n d"], y: Float[Tensor, "B m d"], unbiased: bool) -> Float[Tensor, " B"]:
    """Return the values of B problems from their Gram matrices, of exact differences."""
    kernel = kernel.for_events(x.shape[2], x.dtype)
    at_zero = kernel.profile(x.new_zeros(()))
    value = -2 * kernel.profile(_squared(x, y)).mean((1, 2))
    for z in (x, y):
        n, total = z.shape[1], kernel.profile(_squared(z, z)).sum((1, 2))
        value = value + ((total - n * at_zero) / (n * (n - 1)) if unbiased else total / n**2)
    return value


def _squared(x: Float[Tensor, "B n d"], y: Float[Tensor, "B m d"]) -> Float[Tensor, "B n m"]:
    if not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)):
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    total = x.new_zeros(())
    for k in range(x.shape[2]):
        total = total + (x[:, :, None, k] - y[:, None, :, k]).square()
    return total


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
