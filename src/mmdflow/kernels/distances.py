"""Squared distances that keep their accuracy where points nearly coincide."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

#: Up to this dimension distances are sums of exact differences; above, a centred matrix product, refined where it cancels.
EXACT_DIM = 16


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return |x_i - y_j|^2, accurate also where points nearly coincide; exactly 0 where they do.

    For d <= 16 the differences are formed. Above, both sets are centred, the norms and the product give a first value, and
    the pairs in which it cancels (below sqrt(eps) of the norms) are computed again from their differences.
    """
    if x.shape[1] <= EXACT_DIM:
        known = x.dtype in (torch.float32, torch.float64)  # cdist knows no others on the CPU
        if known and not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)):
            return torch.cdist(
                x, y, compute_mode="donot_use_mm_for_euclid_dist"
            ).square()  # one pass over the differences
        total = (x[:, 0, None] - y[None, :, 0]).square()
        for k in range(1, x.shape[1]):
            total = total + (x[:, k, None] - y[None, :, k]).square()
        return total
    centre = y.detach().mean(0)
    x, y = x - centre, y - centre
    block = max(1, 2**22 // x.shape[1])  # rows of which more than the points themselves is held
    norms = _squares(x, block)[:, None] + _squares(y, block)[None, :]
    product = torch.addmm(norms, x, y.T, alpha=-2)
    close = product.detach() <= 4 * math.sqrt(torch.finfo(x.dtype).eps) * norms.detach()
    i, j = close.nonzero(as_tuple=True)
    if i.numel() == 0:
        return product
    exact = torch.cat([(x[a] - y[b]).square().sum(1) for a, b in zip(i.split(block), j.split(block), strict=True)])
    return product.index_put((i, j), exact)


def _squares(x: Float[Tensor, "n d"], block: int) -> Float[Tensor, " n"]:
    return torch.cat([rows.square().sum(1) for rows in x.split(block)])
