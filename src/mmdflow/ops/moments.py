"""Sums of polynomial kernels through the moments of the points: O(n + m) for few dimensions and a low degree.

(gamma <z, y> + constant)^p = <a(z), a(y)>^p with a(y) = (sqrt(gamma) y, sqrt(constant)), so that the sum over the points is the
tensor sum_j w_j a(y_j)^(x p), of (d + 1)^p entries, applied to a(z) p times.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from mmdflow._tensors import flat
from mmdflow.kernels import Kernel, Polynomial

#: Numbers that a block of rows may hold.
BLOCK = 2**22


def pays(kernel: Kernel, points: Tensor) -> TypeGuard[Polynomial]:
    """Return whether the kernel is a polynomial whose moments have fewer entries than there are points."""
    if not isinstance(kernel, Polynomial) or type(kernel).forward is not Polynomial.forward:
        return False
    return bool((points[0].numel() + 1) ** kernel.degree <= len(points))


def kernel_sum(kernel: Polynomial, z: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return sum_j weights_j k(z_i, points_j), [n]."""
    a = _augmented(kernel, z)
    return (_applied(kernel, a, points, weights) * a).sum(1)


def kernel_sum_grad(kernel: Polynomial, z: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return sum_j weights_j grad_1 k(z_i, points_j), shaped like z."""
    a = _augmented(kernel, z)
    slope = _applied(kernel, a, points, weights)[:, :-1]
    return (kernel.degree * kernel.gamma**0.5 * slope).reshape(z.shape)


def _augmented(kernel: Polynomial, x: Tensor) -> Tensor:
    constant = x.new_full((len(x), 1), kernel.constant**0.5)
    return torch.cat([kernel.gamma**0.5 * flat(x), constant], 1)


def _applied(kernel: Polynomial, a: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return the moments applied to a, [n, e], p - 1 times: [n, e]."""
    e, power = a.shape[1], kernel.degree - 1
    rows = max(1, BLOCK // e**power)
    augmented = _augmented(kernel, points)
    moments = a.new_zeros(e**power, e)
    for y, w in zip(augmented.split(rows), weights.split(rows), strict=True):
        moments = moments + _powers(y, power).T @ (w[:, None] * y)
    return torch.cat([_powers(part, power) @ moments for part in a.split(rows)])


def _powers(y: Tensor, power: int) -> Tensor:
    """Return the tensor powers of the rows of y [m, e], [m, e^power]."""
    total = y.new_ones(len(y), 1)
    for _ in range(power):
        total = (total[:, :, None] * y[:, None, :]).flatten(1)
    return total
