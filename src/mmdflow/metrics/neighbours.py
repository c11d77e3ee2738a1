"""Distances to the nearest training sample, against memorisation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _arrays, _checks
from mmdflow._precision import full_precision, leaves_range
from mmdflow.kernels import squared_distances
from mmdflow.types import ArrayLike


@full_precision
def nearest_distances(
    x: Float[Tensor, "n *event"] | ArrayLike, reference: Float[Tensor, "m *event"] | ArrayLike, *, block: int = 256
) -> Float[Tensor, " n"] | ArrayLike:
    """Return min_j |x_i - reference_j|, in blocks of rows; exactly 0 for copies.

    Example:
        >>> import torch
        >>> nearest_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
        tensor([5.])
    """
    give_back = _arrays.back(x, reference)
    x, reference = _checks.samples("x", x, "reference", reference)
    points, flat = x.flatten(1), reference.flatten(1)
    if leaves_range(points, flat):
        points, flat = points.double(), flat.double()
    nearest = [squared_distances(rows, flat).min(1).values.sqrt() for rows in points.split(block)]
    return give_back(torch.cat(nearest).to(x.dtype))
