"""Low-rank factors of Gram matrices, and linear systems by them: what makes the solvers O(n r^2) in time and O(n r) in memory.

A symmetric matrix K = L^T L + E, with E positive semidefinite and small, is factorised from a few of its columns (pivoted
Cholesky; Harbrecht, Peters, Schneider 2012). Systems of I + S K S are then solved by conjugate gradients on K itself, with
Woodbury's identity for I + S L^T L S as preconditioner: as many steps as E is large, and no error left of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

#: Entries K[rows, columns] of a matrix, given the indices of both.
Entries: TypeAlias = Callable[[Tensor, Tensor], Tensor]

#: Columns that are looked at as pivots at a time, and the least share of the largest pivot among them at which one is taken.
POOL, LEAST_PIVOT = 128, 0.05
#: Columns of a factor that are scaled at a time.
BLOCK = 2**12


def precise(t: Tensor) -> Tensor:
    """Return t in the precision that systems are solved in: float64 wherever the device has it."""
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)


def pivoted_cholesky(entries: Entries, diagonal: Tensor, tolerance: float, most_rank: int) -> Tensor:
    """Return L, [r, N], with K - L^T L positive semidefinite and its diagonal at most `tolerance`, if r reaches so far.

    Pivots are drawn by what is left of the diagonal (Chen, Epperly, Tropp, Webber 2025), a pool at a time, of which those are
    taken that the others of the pool leave large. The draw has a seed of its own.

    Args:
        entries: of K, positive semidefinite.
        diagonal: of K, [N].
        tolerance: of the largest entry that is left of the diagonal.
        most_rank: r at most.
    """
    left = diagonal.clone().clamp_min_(0)
    everything = torch.arange(len(left), device=left.device)
    generator = torch.Generator(left.device).manual_seed(0)
    factor, rank, most_rank = left.new_empty(0, len(left)), 0, min(most_rank, len(left))
    while rank < most_rank and float(left.max()) > tolerance:
        pool = _pool(left, generator)
        schur = entries(pool, pool) - factor[:rank, pool].T @ factor[:rank, pool]
        left[pool] = schur.diagonal().clamp_min(0)
        if float(left[pool].max()) <= tolerance:  # what was left was rounding
            continue
        chosen, small = _pivots(schur, tolerance, most_rank - rank)
        pivots = pool[chosen]
        if rank + len(pivots) > len(factor):
            more = left.new_empty(min(most_rank, max(POOL, 2 * len(factor))), len(left))
            more[:rank] = factor[:rank]
            factor = more
        rows = torch.addmm(entries(pivots, everything), factor[:rank, pivots].T, factor[:rank], alpha=-1)
        rows = torch.linalg.solve_triangular(small, rows, upper=False)
        factor[rank : rank + len(pivots)] = rows
        rank += len(pivots)
        left.sub_(rows.square().sum(0)).clamp_min_(0)
        left[pivots] = 0
    return factor[:rank]


def _pool(left: Tensor, generator: torch.Generator) -> Tensor:
    """Return columns to choose pivots from: the one of which most is left, and others drawn by what is left of them."""
    chances = left / left.max()
    first = chances.argmax()
    chances[first] = 0
    count = min(POOL - 1, int((chances > 0).sum()))
    if count == 0:
        return first[None]
    return torch.cat([first[None], torch.multinomial(chances, count, generator=generator)])


def _pivots(schur: Tensor, tolerance: float, most: int) -> tuple[Tensor, Tensor]:
    """Return the pivots of a small matrix that are large, [k] with k >= 1, and the Cholesky factor of their block, [k, k]."""
    left = schur.diagonal().clone()
    least = max(tolerance, LEAST_PIVOT * float(left.max()))
    rows = torch.zeros_like(schur)
    chosen: list[int] = []
    for k in range(min(most, len(schur))):
        best = int(left.argmax())
        if chosen and float(left[best]) < least:
            break
        chosen.append(best)
        row = (schur[best] - rows[:k, best] @ rows[:k]) / left[best].sqrt()
        rows[k] = row
        left = left - row.square()
        left[best] = 0
    indices = torch.tensor(chosen, device=schur.device)
    return indices, rows[: len(chosen), indices].T.tril()


@dataclass(frozen=True)
class Woodbury:
    """Solves (I + S L^T L S) c = b with S = diag(root), by a system of r unknowns.

    Attributes:
        factor: L, [r, N].
        root: [N].
        inner: the Cholesky factor of I + L S^2 L^T, [r, r].
    """

    factor: Tensor
    root: Tensor
    inner: Tensor

    @classmethod
    def of(cls, factor: Tensor, root: Tensor) -> Woodbury:
        """Factorise, in O(N r^2)."""
        inner = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        for part, of_root in zip(factor.split(BLOCK, 1), root.split(BLOCK), strict=True):
            scaled = part * of_root
            inner.addmm_(scaled, scaled.T)
        return cls(factor, root, torch.linalg.cholesky_ex(inner)[0])

    def __call__(self, right: Tensor) -> Tensor:
        """Return c for b = right, [N]."""
        pulled = torch.cholesky_solve((self.factor @ (self.root * right))[:, None], self.inner)[:, 0]
        return right - self.root * (pulled @ self.factor)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor],
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, float]:
    """Return the solution of a positive definite system and the norm of its residual over that of the right side.

    Args:
        product: the matrix times a vector, shaped like `right`.
        right: the right side.
        precondition: a near inverse of the matrix times a vector.
        tolerance: of that residual, at which the steps end.
        max_iterations: steps at most.
    """
    solution, residual = torch.zeros_like(right), right
    norm = float(right.norm())
    if norm == 0:
        return solution, 0.0
    direction = torch.zeros_like(right)
    size, relative = right.new_ones(()), 1.0
    for step in range(max_iterations):
        near = precondition(residual)
        size, before = (residual * near).sum(), size
        direction = near + (size / before) * direction if step else near
        image = product(direction)
        rate = size / (direction * image).sum()
        solution, residual = solution + rate * direction, residual - rate * image
        relative = float(residual.norm()) / norm
        if not relative > tolerance:
            break
    return solution, relative
