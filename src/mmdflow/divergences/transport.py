"""Entropic transport between two clouds, by Sinkhorn's algorithm on logarithms."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def transport_dual(
    gram: Float[Tensor, "n m"],
    of_rows: Float[Tensor, " n"],
    of_columns: Float[Tensor, " m"],
    num_iterations: int,
    *,
    symmetric: bool = False,
) -> tuple[Float[Tensor, " m"], float]:
    r"""Return the dual g of the columns, and the share of the mass that the plan misplaces.

    The plan P_ij = exp(f_i + log k_ij + g_j) has the marginals a and b where the algorithm has converged. Its columns have b
    here, and its rows miss a by the share sum_i |sum_j P_ij - a_i| / 2.

    A narrow kernel makes it slow: from g = 0 the iterations needed grow with the range of log k. So the first ones are at powers
    k^s of the kernel, s = 2^-J, ..., 1/2, each from the duals before it (epsilon scaling; Schmitzer 2019). From x to x both
    duals are one, and the mean of two iterates converges in tens of steps at any width (Knight, Ruiz, Ucar 2014).

    Args:
        gram: log k between rows and columns; -inf where nothing may be moved.
        of_rows: weights a, of sum 1.
        of_columns: weights b, of sum 1.
        num_iterations: of all powers together.
        symmetric: whether rows and columns are the same points with the same weights.
    """
    log_a, log_b = of_rows.log(), of_columns.log()
    g = torch.zeros_like(of_columns)
    if symmetric:
        for _ in range(num_iterations):
            g = (g + log_b - (gram + g).logsumexp(1)) / 2
        f = g
    else:
        halvings = _halvings(gram, num_iterations)
        for step in range(num_iterations):
            power = 2.0 ** min(step - halvings, 0)
            scaled = gram * power if power < 1 else gram
            f = log_a - (scaled + g).logsumexp(1)
            g = log_b - (scaled + f[:, None]).logsumexp(0)
            if power < 1:
                g = 2 * g
    rows = (f + (gram + g).logsumexp(1)).exp()
    return g, float((rows - of_rows).abs().sum()) / 2


def _halvings(gram: Tensor, num_iterations: int) -> int:
    """Return J: as many halvings as take log k to a range of 1, half of the iterations at most."""
    finite = gram[torch.isfinite(gram)]
    if not len(finite):
        return 0
    spread = float(finite.max() - finite.min())
    return min(math.ceil(math.log2(max(spread, 1.0))), num_iterations // 2)
