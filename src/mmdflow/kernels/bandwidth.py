"""Bandwidths that fit the data: the median heuristic, and the one that moves a Gaussian fastest."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow._arrays import of_any_kind
from mmdflow._precision import full_precision, precise
from mmdflow._tensors import flat
from mmdflow.errors import InputError
from mmdflow.kernels.distances import squared_distances
from mmdflow.types import ArrayLike

#: Multipliers of the hash of a row: any large odd numbers.
_MIX, _SEED = 0x2545F4914F6CDD1D, 0


@of_any_kind
def thinned(x: Float[Tensor, "n *event"], most: int) -> Float[Tensor, "k *event"]:
    """Return at most that many rows of x: a sample that the rows' values choose, so that their order has no say.

    Rows are sorted by a hash of their values, and evenly spaced ones of these are taken. Rows that occur often are taken often.
    """
    if len(x) <= most:
        return x
    order = _hashes(flat(x)).argsort()
    return x[order[torch.linspace(0, len(x) - 1, most, dtype=torch.float64, device=x.device).long()]]


def _hashes(x: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
    """Return a number for each row that depends on its values alone, and looks random."""
    generator = torch.Generator().manual_seed(_SEED)
    odd = (2 * torch.randint(2**62, (x.shape[1],), generator=generator) + 1).to(x.device)
    hashes = []
    for rows in x.detach().split(max(1, 2**22 // x.shape[1])):
        bits = (rows.double() + 0.0).view(torch.int64)  # + 0.0 makes -0.0 and 0.0 one
        bits = (bits ^ (bits >> 32)) * _MIX
        total = ((bits ^ (bits >> 29)) * odd).sum(1)
        hashes.append((total ^ (total >> 32)) * _MIX)
    return torch.cat(hashes)


@full_precision
def median_bandwidth(x: Float[Tensor, "n *event"] | ArrayLike, max_points: int = 1000) -> float:
    """Return the median heuristic: the median of |x_i - x_j|, i < j, or of those above 0 where half of the pairs coincide.

    At most `max_points` rows of x are looked at (`thinned`); their order has no say.

    Raises:
        InputError: for one point, or where all points that are looked at are equal.

    Example:
        >>> median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]]))
        2.0
    """
    few = precise(thinned(flat(_checks.points("x", x)), max_points))
    if few.shape[0] < 2:
        raise InputError("x has 1 point: the median heuristic needs at least 2")
    rows, columns = torch.triu_indices(len(few), len(few), offset=1, device=few.device)
    squared = squared_distances(few, few)[rows, columns]
    median = float(squared.median().sqrt())
    if median == 0 and bool((squared > 0).any()):
        median = float(squared[squared > 0].median().sqrt())
    return _checks.positive("median distance of x (are most points equal?)", median)


@full_precision
def nearest_distance(x: Float[Tensor, "n *event"] | ArrayLike, max_points: int = 1000) -> float:
    """Return the median distance of points to the nearest that differs, over at most `max_points` rows of x (`thinned`)."""
    few = precise(thinned(flat(_checks.points("x", x)), max_points))
    r2 = squared_distances(few, few)
    nearest = torch.where(r2 > 0, r2, torch.full_like(r2, torch.inf)).min(1).values
    median = float(nearest.median().sqrt())
    if not math.isfinite(median):
        raise InputError(
            "x holds one distinct point: the distance to the nearest other needs at least 2; give a bandwidth"
        )
    return median


def default_bandwidth(target: Float[Tensor, "m *event"] | ArrayLike) -> float:
    """Return a width between the scale of the whole and that of the gaps: sqrt(median distance * median nearest distance).

    Args:
        target: samples [m, *event], m >= 2.

    Raises:
        InputError: if all samples are equal.
    """
    target = _checks.points("target", target)
    return math.sqrt(median_bandwidth(target) * nearest_distance(target))


def optimal_bandwidth(mean_norm: float, dim: int, sigma: float) -> float:
    r"""Return the bandwidth that moves one Gaussian fastest towards another: DMMD paper, Proposition 3.1.

    For N(0, sigma^2 I) and N(mu, sigma^2 I) in dimension `dim` and the normalised Gaussian kernel,
    a* = ReLU(|mu|^2 / (dim + 2) - 2 sigma^2)^(1/2). It is 0 once |mu|^2 <= 2 sigma^2 (dim + 2).

    Args:
        mean_norm: |mu|, at least 0.
        dim: the dimension, at least 1.
        sigma: the common standard deviation, positive.

    Example:
        >>> round(optimal_bandwidth(mean_norm=5.0, dim=1, sigma=1.0), 6)
        2.516611
    """
    mean_norm = _checks.non_negative("mean_norm", mean_norm)
    return math.sqrt(
        max(0.0, mean_norm**2 / (_checks.count("dim", dim) + 2) - 2 * _checks.positive("sigma", sigma) ** 2)
    )
