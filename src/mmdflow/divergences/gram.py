"""The target's Gram matrix as solvers use it: products K a and solutions of I + S K S. Only small ones are held."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mmdflow import ops
from mmdflow.divergences.low_rank import BLOCK, Woodbury, conjugate_gradients, pivoted_cholesky, precise
from mmdflow.kernels import Kernel

#: Up to this many points the whole matrix is held.
DENSE_POINTS = 1000
#: Rows of a low-rank factor at most: 800 MB for 100 000 points.
MOST_RANK = 1000
#: What the low-rank factor may leave of the diagonal, relative to it and to lambda.
LEFT = 1e-6
#: Sums within a tolerance, where they are asked for, are taken to this one by solvers.
SUM_TOLERANCE = 1e-11
#: Conjugate gradient steps at most.
MAX_STEPS = 500


@runtime_checkable
class Gram(Protocol):
    """K, [m, m].

    Attributes:
        eps: the relative precision of its entries.
    """

    eps: float

    def product(self, a: Tensor) -> Tensor:
        """Return K a, [m]."""
        ...

    def solve(self, root: Tensor, right: Tensor, accuracy: float) -> Tensor:
        """Return (I + S K S)^-1 right with S = diag(root), to that relative residual."""
        ...


class DenseGram:
    """K as it is."""

    def __init__(self, matrix: Tensor, eps: float) -> None:
        self.matrix, self.eps = matrix, eps

    def product(self, a: Tensor) -> Tensor:
        """Return K a, O(m^2)."""
        return self.matrix @ a

    def solve(self, root: Tensor, right: Tensor, accuracy: float) -> Tensor:
        """Return (I + S K S)^-1 right, O(m^3)."""
        inner = root[:, None] * self.matrix * root[None, :]
        inner.diagonal().add_(1)
        return torch.linalg.solve(inner, right)


class LowRankGram:
    """L^T L in the place of K."""

    def __init__(self, factor: Tensor, eps: float) -> None:
        self.factor, self.eps = factor, eps

    def product(self, a: Tensor) -> Tensor:
        """Return L^T L a, O(m r)."""
        return (self.factor @ a) @ self.factor

    def solve(self, root: Tensor, right: Tensor, accuracy: float) -> Tensor:
        """Return (I + S L^T L S)^-1 right, O(m r^2)."""
        return Woodbury.of(self.factor, root)(right)


class SummedGram:
    """K by sums over pairs, with a low-rank factor that guides solutions and takes no part in what they are.

    Attributes:
        model: the factor's own matrix, whose solutions are good first guesses.
        coarse: that of its first third, a ninth of the work: pivots come in the order of what they explain.
    """

    def __init__(self, kernel: Kernel, points: Tensor, factor: Tensor, eps: float) -> None:
        self.kernel, self.points, self.eps = kernel, points, eps
        self.model, self.coarse = LowRankGram(factor, eps), LowRankGram(factor[: len(factor) // 3], eps)

    def product(self, a: Tensor) -> Tensor:
        """Return K a."""
        return kernel_sum(self.kernel, self.points, self.points, a)

    def solve(self, root: Tensor, right: Tensor, accuracy: float) -> Tensor:
        """Return (I + S K S)^-1 right by conjugate gradients; O(m r^2) and a product a step."""
        near = Woodbury.of(self.model.factor, root)
        return self.solve_by(near, right, accuracy)[0]

    def solve_by(self, near: Woodbury, right: Tensor, accuracy: float) -> tuple[Tensor, float]:
        """Return (I + S K S)^-1 right, with S and the preconditioner of `near`, and the relative residual."""
        return conjugate_gradients(
            lambda v: v + near.root * self.product(near.root * v), right, near, accuracy, MAX_STEPS
        )


def gram_of(kernel: Kernel, points: Tensor, regularization: float) -> DenseGram | SummedGram:
    """Return the Gram matrix of points [m, *event] for systems that are regularised by lambda."""
    points = widened(kernel, points)
    eps = torch.finfo(points.dtype).eps
    if len(points) <= DENSE_POINTS:
        return DenseGram(precise(kernel(points, points)), eps)
    diagonal = precise(kernel.diag(points))
    largest = float(diagonal.max())
    tolerance = max(LEFT * min(regularization, largest), 16 * eps * largest)

    def entries(rows: Tensor, columns: Tensor) -> Tensor:
        parts = [precise(kernel(points[rows], points[part])) for part in columns.split(BLOCK)]
        return torch.cat(parts, 1)

    factor = pivoted_cholesky(entries, diagonal, tolerance, MOST_RANK)
    return SummedGram(kernel, points, factor, eps)


class GramOfTarget:
    """The Gram matrix of a divergence's target, made again where the target was moved or loaded since."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._made: tuple[Tensor, int, float, DenseGram | SummedGram] | None = None

    @torch.no_grad()
    def __call__(self, target: Tensor, regularization: float) -> DenseGram | SummedGram:
        """Return the Gram matrix of target [m, *event]; the one at hand serves a larger lambda too, and one a little smaller."""
        version = 0 if target.is_inference() else target._version
        made = self._made
        if made is None or made[0] is not target or made[1] != version or regularization < made[2] / 100:
            made = self._made = target, version, regularization, gram_of(self.kernel, target, regularization)
        return made[3]


def widened(kernel: Kernel, points: Tensor) -> Tensor:
    """Return the points in float64, if the kernel takes them so: a network's weights have a type of their own."""
    return precise(points) if kernel.any_dtype else points


def kernel_sum(kernel: Kernel, z: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return sum_j weights_j k(z_i, points_j) in the precision of solvers, though points may have less."""
    z, points = widened(kernel, z), widened(kernel, points)
    with ops.tightened(SUM_TOLERANCE):
        return precise(ops.kernel_sum(kernel, z, points, weights.to(points.dtype)))
