"""Witness functions: the first variation f of a divergence, a function on events with a gradient."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mmdflow import ops
from mmdflow.kernels import Kernel
from mmdflow.ops.dispatch import embedding_grad


@runtime_checkable
class Witness(Protocol):
    """f: [n, *event] -> [n], with `grad`: [n, *event] -> [n, *event]."""

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        ...

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i)."""
        ...


class KernelWitness:
    """f(z) = sum_j weights_j k(z, points_j): MMD, KALE and DrMMD differ only in the weights.

    Args:
        kernel: the kernel k.
        points: [p, *event].
        weights: [p]; 1/n on particles and -1/m on the target for MMD.
        tolerance: of sums by ``ops.backend("fast", tolerance)``; None for sums as they are made where f is evaluated.
    """

    def __init__(
        self,
        kernel: Kernel,
        points: Float[Tensor, "p *event"],
        weights: Float[Tensor, " p"],
        tolerance: float | None = None,
    ) -> None:
        self.kernel, self.points, self.weights, self.tolerance = kernel, points, weights, tolerance

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        with ops.within(self.tolerance):
            return ops.kernel_sum(self.kernel, z, self.points, self.weights)

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i)."""
        with ops.within(self.tolerance):
            return ops.kernel_sum_grad(self.kernel, z, self.points, self.weights)


class EmbeddingWitness:
    """f(z) = <psi(z), direction> for a kernel with a finite feature map psi: the whole sum in one vector.

    Args:
        kernel: a kernel whose `embed` gives psi.
        direction: [K]; the difference of mean embeddings for MMD (DMMD paper, eq. 13).
    """

    def __init__(self, kernel: Kernel, direction: Float[Tensor, " K"]) -> None:
        self.kernel, self.direction = kernel, direction

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        return self.kernel.embed(z) @ self.direction

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i)."""
        return embedding_grad(self.kernel, z, self.direction)
