"""Bandwidths that fit the data: the median heuristic, and the one that moves a Gaussian fastest."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import flat
from mmdflow.errors import InputError
from mmdflow.kernels.distances import squared_distances


def thinned(x: Float[Tensor, "n *event"], most: int) -> Float[Tensor, "k *event"]:
    """Return at most that many rows of x, evenly spaced, so that an order in the rows does no harm."""
    return x if len(x) <= most else x[torch.linspace(0, len(x) - 1, most, device=x.device).long()]


def median_bandwidth(x: Float[Tensor, "n *event"], max_points: int = 1000) -> float:
    """Return the median heuristic: the median of |x_i - x_j|, i < j, over at most `max_points` evenly spaced rows of x."""
    few = thinned(flat(_checks.points("x", x)), max_points)
    if few.shape[0] < 2:
        raise InputError("x has 1 point: the median heuristic needs at least 2")
    rows, columns = torch.triu_indices(len(few), len(few), offset=1)
    median = float(squared_distances(few, few)[rows, columns].median().sqrt())
    return _checks.positive("median distance of x (are most points equal?)", median)


def nearest_distance(x: Float[Tensor, "n *event"], max_points: int = 1000) -> float:
    """Return the median distance of points to the nearest that differs, over at most `max_points` evenly spaced rows of x."""
    few = thinned(flat(_checks.points("x", x)), max_points)
    r2 = squared_distances(few, few)
    nearest = torch.where(r2 > 0, r2, torch.full_like(r2, torch.inf)).min(1).values
    median = float(nearest.median().sqrt())
    if not math.isfinite(median):
        raise InputError(
            "x holds one distinct point: the distance to the nearest other needs at least 2; give a bandwidth"
        )
    return median


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
