"""The plain torch backend: any kernel, any device, any floating dtype, differentiable, memory bounded by blocks of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmdflow._precision import full_precision, widened
from mmdflow.kernels import Kernel

#: Entries of a Gram block that are held at a time: what stays in the cache, so that the passes over a block are quick.
BLOCK = 2**19


@full_precision
def kernel_sum(kernel: Kernel, z: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return sum_j weights_j k(z_i, points_j), [n], in blocks of rows."""
    return _by_rows(lambda rows: widened(kernel(rows, points)) @ weights, z, len(points))


@full_precision
def kernel_sum_grad(kernel: Kernel, z: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return sum_j weights_j grad_1 k(z_i, points_j), shaped like z, in blocks of rows."""
    return _by_rows(lambda rows: kernel.grad(rows, points, weights[None].to(z.dtype)), z, len(points))


def _by_rows(block: Callable[[Tensor], Tensor], z: Tensor, num_points: int) -> Tensor:
    rows = max(1, BLOCK // num_points)
    return block(z) if len(z) <= rows else torch.cat([block(part) for part in z.split(rows)])


@full_precision
def tangent_sum(kernel: Kernel, z: Tensor, points: Tensor, vectors: Tensor) -> Tensor:
    """Return sum_j <vectors_j, grad_2 k(z_i, points_j)>, [n], in blocks of rows."""
    return _by_rows(lambda rows: kernel.tangent(rows, points, vectors), z, len(points))


@full_precision
def tangent_sum_grad(kernel: Kernel, z: Tensor, points: Tensor, vectors: Tensor) -> Tensor:
    """Return the gradient in z_i of `tangent_sum`, shaped like z, in blocks of rows."""
    return _by_rows(lambda rows: kernel.tangent_grad(rows, points, vectors), z, len(points))
