"""The companion of a radial kernel: the kernel whose MMD flow is the plain drift of the first."""

from __future__ import annotations

import math

from mmdflow.errors import InputError
from mmdflow.kernels.base import Kernel
from mmdflow.kernels.composed import Mixture
from mmdflow.kernels.radial import Gaussian, Laplace, Matern, RationalQuadratic


def companion(kernel: Kernel) -> Kernel:
    r"""Return k# with grad_1 k#(x, y) = k(x, y) (y - x): k#(r) = integral from r to infinity of s k(s) ds.

    | k | k# |
    |---|---|
    | Gaussian(s) | s^2 Gaussian(s) |
    | Laplace(b), Matern(1/2, b) | b^2 Matern(3/2, sqrt(3) b) |
    | Matern(3/2, b) | b^2 Matern(5/2, sqrt(5/3) b) |
    | RationalQuadratic(a, s), a > 1 | s^2 a / (a - 1) RationalQuadratic(a - 1, s sqrt(a / (a - 1))) |
    | mixtures of these | the mixture of the companions |

    Raises:
        InputError: for a kernel whose companion is not one of the library's kernels.

    Example:
        >>> import torch
        >>> companion(Gaussian(2.0))(torch.zeros(1, 1), torch.zeros(1, 1))
        tensor([[4.]])
    """
    if isinstance(kernel, Mixture):
        return Mixture([companion(member) for member in kernel.members()], kernel.weights)
    if type(kernel) is Gaussian and not kernel.normalized:
        bandwidth = float(kernel.bandwidth)
        return bandwidth**2 * Gaussian(bandwidth)
    if type(kernel) is Laplace or (type(kernel) is Matern and kernel.nu == 0.5):
        bandwidth = float(kernel.bandwidth)
        return bandwidth**2 * Matern(1.5, math.sqrt(3) * bandwidth)
    if type(kernel) is Matern and kernel.nu == 1.5:
        bandwidth = float(kernel.bandwidth)
        return bandwidth**2 * Matern(2.5, math.sqrt(5 / 3) * bandwidth)
    if type(kernel) is RationalQuadratic and float(kernel.alpha) > 1:
        alpha, scale = float(kernel.alpha), float(kernel.scale)
        ratio = alpha / (alpha - 1)
        return scale**2 * ratio * RationalQuadratic(alpha - 1, scale * math.sqrt(ratio))
    raise InputError(
        f"kernel = {type(kernel).__name__}: has no companion here; drifts take Gaussian, Laplace, Matern 1/2 and 3/2, "
        f"RationalQuadratic with alpha > 1, and mixtures of them"
    )
