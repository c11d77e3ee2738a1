"""Choose how a sum of kernels is computed: through the mean embedding where the feature map is finite, else pairwise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.kernels import Kernel
from mmdflow.ops import reference


def kernel_sum(
    kernel: Kernel, z: Float[Tensor, "n *event"], points: Float[Tensor, "m *event"], weights: Float[Tensor, " m"]
) -> Float[Tensor, " n"]:
    """Return sum_j weights_j k(z_i, points_j)."""
    if not kernel.finite:
        return reference.kernel_sum(kernel, z, points, weights)
    return kernel.embed(z) @ (weights @ kernel.embed(points))


def kernel_sum_grad(
    kernel: Kernel, z: Float[Tensor, "n *event"], points: Float[Tensor, "m *event"], weights: Float[Tensor, " m"]
) -> Float[Tensor, "n *event"]:
    """Return sum_j weights_j grad_1 k(z_i, points_j)."""
    if not kernel.finite:
        return reference.kernel_sum_grad(kernel, z, points, weights)
    with torch.no_grad():
        embedded = weights @ kernel.embed(points)
    return embedding_grad(kernel, z, embedded)


def embedding_grad(
    kernel: Kernel, z: Float[Tensor, "n *event"], direction: Float[Tensor, " K"]
) -> Float[Tensor, "n *event"]:
    """Return grad <psi(z_i), direction> for a kernel with a finite feature map psi."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        psi = kernel.embed(z)
    return torch.autograd.grad(psi, z, direction.detach().expand_as(psi))[0]
