"""Squared distances that keep their accuracy where points nearly coincide."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow._arrays import of_any_kind
from mmdflow._precision import full_precision, in_float32

#: Up to this dimension distances are sums of exact differences; above, a centred matrix product, refined where it cancels.
EXACT_DIM = 16


@of_any_kind
@full_precision
@in_float32
def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return |x_i - y_j|^2, accurate also where points nearly coincide; exactly 0 where they do.

    For d <= 16 the differences are formed. Above, both sets are centred, the norms and the product give a first value, and
    the pairs in which it cancels (below sqrt(eps) of the norms) are computed again from the points' differences.
    """
    return Differences(x, y).squared


def squared_distances_by_group(x: Float[Tensor, "G n d"], y: Float[Tensor, "G m d"]) -> Float[Tensor, "G n m"]:
    """Return |x_gi - y_gj|^2 in every group, as `squared_distances` has them; in float32 or float64, without a graph."""
    if x.shape[2] <= EXACT_DIM:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    centre = y.mean(1, keepdim=True)
    centred = x - centre, y - centre
    on_x, on_y = (torch.linalg.vector_norm(points, dim=2).square() for points in centred)
    norms = on_x[:, :, None] + on_y[:, None, :]
    product = torch.baddbmm(norms, centred[0], centred[1].mT, alpha=-2)
    g, i, j = (product <= _cancelling(x.dtype) * norms).nonzero(as_tuple=True)
    rows = max(1, 2**22 // x.shape[2])
    for part in zip(g.split(rows), i.split(rows), j.split(rows), strict=True):
        product[part] = (x[part[0], part[1]] - y[part[0], part[2]]).square().sum(1)
    return product


class Differences:
    """The differences x_i - y_j of all pairs, of which never all are held: [n, m] numbers and sums at a time.

    Up to 16 dimensions they are formed one coordinate after the other. Above, products of centred points stand for them, but for
    the pairs in which those cancel: they are formed from the points as given.

    Args:
        x: [n, d].
        y: [m, d].

    Attributes:
        squared: |x_i - y_j|^2, [n, m]; exactly 0 where points coincide.
    """

    def __init__(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> None:
        self.x, self.y = x, y
        self.few = x.shape[1] <= EXACT_DIM
        if self.few:
            self.squared = _by_coordinates(x, y)
            return
        centre = y.detach().mean(0)
        self.centred = x - centre, y - centre
        self.block = max(1, 2**22 // x.shape[1])  # rows of which more than the points themselves is held
        on_x, on_y = (_squares(points, self.block) for points in self.centred)
        norms = on_x[:, None] + on_y[None, :]
        product = torch.addmm(norms, self.centred[0], self.centred[1].T, alpha=-2)
        close = product.detach() <= _cancelling(x.dtype) * norms.detach()
        self.close = close.nonzero(as_tuple=True)
        exact = [difference.square().sum(1) for _, _, difference in self._of_close()]
        self.squared = product.index_put(self.close, torch.cat(exact)) if exact else product

    def sum(self, weights: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """Return sum_j weights_ij (x_i - y_j)."""
        if self.few:
            columns = [(weights * (self.x[:, k, None] - self.y[None, :, k])).sum(1) for k in range(self.x.shape[1])]
            return torch.stack(columns, 1)
        x, y = self.centred
        far = weights.index_put(self.close, weights.new_zeros(())) if len(self.close[0]) else weights
        total = far.sum(1, keepdim=True) * x - far @ y
        for i, j, difference in self._of_close():
            total = total.index_add(0, i, weights[i, j, None] * difference)
        return total

    def along(self, vectors: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """Return <x_i - y_j, vectors_j>."""
        if self.few:
            total = (self.x[:, 0, None] - self.y[None, :, 0]) * vectors[:, 0]
            for k in range(1, self.x.shape[1]):
                total = total + (self.x[:, k, None] - self.y[None, :, k]) * vectors[:, k]
            return total
        x, y = self.centred
        total = x @ vectors.T - (y * vectors).sum(1)
        exact = [(difference * vectors[j]).sum(1) for _, j, difference in self._of_close()]
        return total.index_put(self.close, torch.cat(exact)) if exact else total

    def _of_close(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield rows i, columns j and x_i - y_j, [k, d], of the pairs in which products cancel, in blocks."""
        if len(self.close[0]):
            for i, j in zip(*(indices.split(self.block) for indices in self.close), strict=True):
                yield i, j, self.x[i] - self.y[j]


def _cancelling(dtype: torch.dtype) -> float:
    """Return the share of the norms below which products of centred points have lost half of their digits."""
    return 4 * math.sqrt(torch.finfo(dtype).eps)


def _by_coordinates(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    known = x.dtype in (torch.float32, torch.float64)  # cdist knows no others on the CPU
    if known and not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)):
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()  # one pass over the differences
    total = (x[:, 0, None] - y[None, :, 0]).square()
    for k in range(1, x.shape[1]):
        total = total + (x[:, k, None] - y[None, :, k]).square()
    return total


def _squares(x: Float[Tensor, "n d"], block: int) -> Float[Tensor, " n"]:
    return torch.cat([rows.square().sum(1) for rows in x.split(block)])
