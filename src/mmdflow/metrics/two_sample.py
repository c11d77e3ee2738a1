"""The MMD two-sample test with a permutation null (Gretton et al. 2012)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.kernels import Gaussian, Kernel, median_bandwidth


def mmd_test(
    x: Float[Tensor, "n *event"],
    y: Float[Tensor, "m *event"],
    kernel: Kernel | None = None,
    *,
    num_permutations: int = 500,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Return the unbiased MMD^2 and its permutation p-value, (1 + #{permuted >= observed}) / (1 + permutations).

    The level is exact for any n and m. Costs one Gram matrix of (n + m)^2 entries.

    Args:
        x: the first sample, n >= 2.
        y: the second sample, m >= 2.
        kernel: Gaussian with the median heuristic on both samples together when None.
        num_permutations: permutations of the labels.
        generator: of the permutations.

    Raises:
        InputError: for mismatched event shapes, fewer than 2 points, or entries that are not finite.
    """
    _checks.points("y", y)
    _checks.points("x", x, y.shape[1:])
    _checks.count("num_permutations", num_permutations)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise InputError(f"x and y have {n} and {m} points: each needs at least 2")
    both = torch.cat([x, y])
    # a random order, so that the heuristic's subsample holds points of both
    order = torch.randperm(n + m, generator=generator)
    kernel = Gaussian(median_bandwidth(both[order])) if kernel is None else kernel
    with torch.no_grad():
        gram = kernel(both, both).double()
    gram.fill_diagonal_(0)
    # each column of `first` marks the points that play x
    first = torch.zeros(n + m, num_permutations + 1, dtype=gram.dtype, device=gram.device)
    first[:n, 0] = 1
    for column in range(1, num_permutations + 1):
        first[torch.randperm(n + m, generator=generator)[:n], column] = 1
    product = gram @ first
    within_x = (first * product).sum(0)
    across = product.sum(0) - within_x
    within_y = gram.sum() - within_x - 2 * across
    statistic = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)
    slack = 1e-12 * statistic[0].abs()  # permutations equal to the observed labels count as such
    exceed = int((statistic[1:] >= statistic[0] - slack).sum())
    return float(statistic[0]), (1 + exceed) / (1 + num_permutations)
