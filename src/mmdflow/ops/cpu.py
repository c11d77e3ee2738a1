"""The compiled CPU backend: sums of radial kernels in float32 and float64, in O(n d) memory and on torch's number of threads.

On the line, kernels that a sweep over sorted points can sum go to `sorted_line`, O(n log n). Up to 16 dimensions one fused loop
takes exact differences. Above, squared distances come from a matrix product of centred points, and a second product sums the
gradients; pairs in which the products cancel are measured again from the points as given.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdflow.kernels.distances import EXACT_DIM
from mmdflow.kernels.profiles import Profile
from mmdflow.ops import numba_sums, sorted_line, threads

#: Pairs of a task: tens of milliseconds, so that threads share the work evenly and Ctrl-C is heard.
TASK = 2**26
#: Rows, for each thread, and columns of a block of the product path: 2 MB in float32, in the second-level cache between passes.
ROWS, COLUMNS = 512, 1024


def add(profile: Profile, x: Tensor, y: Tensor, weights: Tensor, values: Tensor | None, slopes: Tensor | None) -> None:
    """Add sum_j weights_j value(|x_i - y_j|^2) to `values` [n], and with slope and (x_i - y_j) to `slopes` [n, d], in float64."""
    if x.shape[1] == 1 and sorted_line.pays(profile, x, y, weights):
        sorted_line.add(profile, x, y, weights, values, slopes)
        return
    (_directly if x.shape[1] <= EXACT_DIM else _by_products)(_typed(profile, x), x, y, weights, values, slopes)


def add_tangents(profile: Profile, x: Tensor, y: Tensor, vectors: Tensor, totals: Tensor) -> None:
    """Add sum_j slope v_j + 2 d slope/d(r2) <x_i - y_j, v_j> (x_i - y_j) to `totals` [n, d] in float64, d at most 16."""
    typed = _typed(profile, x)
    fused, columns, v = numba_sums.tangent(x.shape[1]), y.T.contiguous().numpy(), vectors.T.contiguous().numpy()

    def task(part: slice) -> None:
        with threads.flushing():
            fused(typed, x[part].numpy(), columns, v, totals[part].numpy())

    threads.over_rows(task, len(x), max(1, TASK // len(y)))


def _typed(profile: Profile, x: Tensor) -> Profile:
    """Return the profile in numbers of the points' type, which decides the type of the arithmetic."""
    real: Any = np.float32 if x.dtype == torch.float32 else np.float64
    return type(profile)(*(real(number) for number in profile))


def _directly(
    profile: Profile, x: Tensor, y: Tensor, weights: Tensor, values: Tensor | None, slopes: Tensor | None
) -> None:
    """Add the sums by exact differences."""
    fused, columns, w = numba_sums.direct(x.shape[1]), y.T.contiguous().numpy(), weights.numpy()

    def task(part: slice) -> None:
        with threads.flushing():
            fused(profile, x[part].numpy(), columns, w, _rows(values, part), _rows(slopes, part))

    threads.over_rows(task, len(x), max(1, TASK // len(y)))


def _by_products(
    profile: Profile, x: Tensor, y: Tensor, weights: Tensor, values: Tensor | None, slopes: Tensor | None
) -> None:
    """Add the sums by matrix products, a block of pairs at a time."""
    centre = y.mean(0)
    centred_x, centred_y = x - centre, y - centre
    x_norms, y_norms = centred_x.square().sum(1), centred_y.square().sum(1)
    close = (x_norms.new_ones(1) * 4 * math.sqrt(torch.finfo(x.dtype).eps)).numpy()[0]
    most = ROWS * torch.get_num_threads()
    buffer = x.new_empty(min(most, len(x)) * min(COLUMNS, len(y)))
    of_weights = None if slopes is None else slopes.new_zeros(len(x))  # sum_j w_j slope
    of_points = torch.zeros_like(x)  # sum_j w_j slope y_j

    of_rows = [None if t is None else t.numpy() for t in (x, x_norms, values, of_weights, slopes)]
    of_columns = y.numpy(), y_norms.numpy(), weights.numpy()

    def weigh(block: np.ndarray, first: int, columns: slice) -> None:
        points, norms, w = (t[columns] for t in of_columns)

        def task(part: slice) -> None:
            at = slice(first + part.start, first + part.stop)
            rows, norms_x, *totals = (None if t is None else t[at] for t in of_rows)
            with threads.flushing():
                numba_sums.weigh(profile, block[part], rows, points, norms_x, norms, w, close, *totals)

        threads.over_rows(task, len(block), TASK)

    for columns in threads.parts(len(y), COLUMNS):
        of_y = centred_y[columns]
        for rows in threads.parts(len(x), most):
            of_x = centred_x[rows]
            block = buffer[: of_x.shape[0] * of_y.shape[0]].view(of_x.shape[0], of_y.shape[0])
            torch.mm(of_x, of_y.T, out=block)
            weigh(block.numpy(), rows.start, columns)
            if slopes is not None:
                of_points[rows].addmm_(block, of_y)
    if slopes is not None and of_weights is not None:
        slopes.add_(of_weights[:, None] * centred_x - of_points)


def _rows(total: Tensor | None, part: slice) -> np.ndarray | None:
    return None if total is None else total[part].numpy()
