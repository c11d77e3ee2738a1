"""The sliced Wasserstein distance of order 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.types import ArrayLike


def sliced_w2(
    x: Float[Tensor, "n *event"] | ArrayLike,
    y: Float[Tensor, "m *event"] | ArrayLike,
    *,
    num_directions: int = 500,
    generator: torch.Generator | None = None,
) -> float:
    """Return (E_xi W_2^2(<xi, x>, <xi, y>))^(1/2) over random unit directions xi, exact in one dimension, for any n and m.

    Raises:
        InputError: for mismatched event shapes or entries that are not finite.

    Example:
        >>> import torch
        >>> round(sliced_w2(torch.zeros(5, 1), torch.ones(3, 1)), 6)
        1.0
    """
    x, y = _checks.samples("x", x, "y", y)
    _checks.count("num_directions", num_directions)
    x, y = x.flatten(1).double(), y.flatten(1).double()
    directions = F.normalize(torch.randn(x.shape[1], num_directions, dtype=x.dtype, generator=generator), dim=0)
    x_sorted, y_sorted = (x @ directions.to(x.device)).sort(0).values, (y @ directions.to(y.device)).sort(0).values
    # both quantile functions are constant between consecutive points of {i/n} and {j/m}
    steps = [torch.arange(1, n + 1, dtype=torch.float64) / n for n in (len(x), len(y))]
    edges = torch.cat(steps).sort().values
    widths = edges.diff(prepend=edges.new_zeros(1))
    middle = edges - widths / 2
    rows_x = (middle * len(x)).long().clamp_max(len(x) - 1)
    rows_y = (middle * len(y)).long().clamp_max(len(y) - 1)
    squared = (x_sorted[rows_x] - y_sorted[rows_y]).square()
    return float((widths.to(x.device) @ squared).mean().clamp_min(0).sqrt())
