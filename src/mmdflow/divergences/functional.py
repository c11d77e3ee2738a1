"""Functions of two samples."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel


def mmd2(
    x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"], kernel: Kernel, *, unbiased: bool = True
) -> Float[Tensor, ""]:
    r"""Return an estimate of MMD^2 between two samples, differentiable in x, y and the kernel (Gretton et al. 2012).

    unbiased: sum_{i!=j} k(x_i,x_j)/(n(n-1)) + sum_{i!=j} k(y_i,y_j)/(m(m-1)) - 2 mean k(x,y) (U-statistic; may be negative);
    otherwise the V-statistic with all pairs and 1/n^2, 1/m^2. O(n + m) for kernels with a finite feature map.

    Raises:
        InputError: if shapes differ, entries are not finite, or a sample has one point and unbiased is True.

    Example:
        >>> import torch
        >>> from mmdflow import Linear
        >>> mmd2(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]), Linear(), unbiased=False)
        tensor(9.)
    """
    _checks.points("y", y)
    _checks.points("x", x, y.shape[1:])
    if unbiased and min(len(x), len(y)) < 2:
        raise InputError(f"unbiased = True with samples of {len(x)} and {len(y)} points: each needs at least 2")
    cross = ops.kernel_sum(kernel, x, y, y.new_full((len(y),), 1 / len(y))).mean()
    return _within(x, kernel, unbiased) + _within(y, kernel, unbiased) - 2 * cross


def _within(x: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    n = len(x)
    total = ops.kernel_sum(kernel, x, x, x.new_ones(n)).sum()
    return (total - kernel.diag(x).sum()) / (n * (n - 1)) if unbiased else total / n**2
