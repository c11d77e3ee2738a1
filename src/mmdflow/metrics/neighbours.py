"""Distances to the nearest training sample, against memorisation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._precision import full_precision, leaves_range
from mmdflow.kernels import squared_distances


@full_precision
def nearest_distances(
    x: Float[Tensor, "n *event"], reference: Float[Tensor, "m *event"], *, block: int = 256
) -> Float[Tensor, " n"]:
    """Return min_j |x_i - reference_j|, in blocks of rows; exactly 0 for copies.

    Example:
        >>> import torch
        >>> nearest_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
        tensor([5.])
    """
    _checks.points("reference", reference)
    _checks.points("x", x, reference.shape[1:])
    points, flat = x.flatten(1), reference.flatten(1)
    if leaves_range(points, flat):
        points, flat = points.double(), flat.double()
    nearest = [squared_distances(rows, flat).min(1).values.sqrt() for rows in points.split(block)]
    return torch.cat(nearest).to(x.dtype)
