"""Sums of kernels on the line in O(N log N): the points are sorted, and one sweep from each end carries what it has passed.

They are exact. A kernel p(r) exp(-a r) with a polynomial p, r = |z - y|, needs the moments A_k = sum_j w_j r_j^k exp(-a r_j) of
the points on one side of z. When the sweep moves on by h, all r_j grow by h:

    A_0 <- E A_0,   A_1 <- E (A_1 + h A_0),   A_2 <- E (A_2 + 2 h A_1 + h^2 A_0),   E = exp(-a h),

and a point that is passed adds its weight to A_0. Only differences of neighbours are formed, so that points may lie far from the
origin, and nothing grows but what the sum itself has. -r is the case a = 0. Sums are in float64, whatever the points' precision.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
import torch
from torch import Tensor

from mmdflow import _checks
from mmdflow.kernels.profiles import LOG2E, Decay, Profile, Swept
from mmdflow.ops.numba_sums import compiled

#: Pairs below which the compiled sums over all pairs are quicker.
FEW = 2**17
#: exp(-t) is kept as exp(-t) - 1 below the first t, where E would lose digits, and is 0 beyond the second, where it leaves the
#: normal numbers.
NEAR, FAR = 0.5, 700.0
#: What stands for such a 0.
GONE = 2.0

jit = compiled({"contract", "nsz"})  # no reordering: the sweeps' rounding errors would grow


def pays(profile: Profile, x: Tensor, y: Tensor, weights: Tensor) -> bool:
    """Return whether the sums of this profile over such points, [n, 1] and [m, 1], are taken here, and quicker than by pairs."""
    return isinstance(profile, Swept) and len(x) * len(y) >= FEW and all(_checks.all_finite(t) for t in (x, y, weights))


def add(profile: Profile, x: Tensor, y: Tensor, weights: Tensor, values: Tensor | None, slopes: Tensor | None) -> None:
    """Add sum_j weights_j value(|x_i - y_j|^2) to `values` [n], and with slope and (x_i - y_j) to `slopes` [n, 1], in float64.

    A point at which x_i lies adds its value at 0 and no slope, as in the reference where the kernel has a kink.
    """
    if len(x) <= len(y) and torch.equal(x, y[: len(x)]):  # the usual case: particles are among the points
        points, w = y, weights.double()
    else:
        points, w = torch.cat([x, y]), torch.cat([weights.new_zeros(len(x)), weights]).double()
    rate, numbers = _numbers(profile)
    order, places = _sorted(points.reshape(-1).numpy())
    at, slope_at = (np.empty(0) if total is None else total.reshape(-1).numpy() for total in (values, slopes))
    sweep(rate, numbers, order, places, w.numpy(), len(x), at, slope_at)


def _numbers(profile: Profile) -> tuple[float, tuple[float, ...]]:
    """Return a and the factors of A_0, A_1, A_2 in values and in slopes times r."""
    if isinstance(profile, Decay):
        return -profile.rate / LOG2E, (profile.p0, profile.p1, profile.p2, profile.inverse, profile.q0, profile.q1)
    return 0.0, (0.0, 1.0, 0.0, 1.0, 0.0, 0.0)


def _sorted(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the points on the line, and the points in that order in float64.

    numpy sorts integers several times faster than it finds an order: float32 points are sorted as the upper halves of integers
    whose lower halves are the indices.
    """
    if points.dtype != np.float32 or len(points) > 2**31:
        order = np.argsort(points)
        return order, points[order].astype(np.float64)
    entries = _rise(points.view(np.int32)).astype(np.int64)
    entries <<= 32
    entries |= np.arange(len(points))
    entries.sort()
    places = _rise((entries >> 32).astype(np.int32)).view(np.float32).astype(np.float64)
    entries &= 0xFFFFFFFF
    return entries, places


def _rise(bits: np.ndarray) -> np.ndarray:
    """Return integers that rise with the numbers of these bits. It is its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@jit
@no_type_check
def moved(a0, a1, a2, h, step):
    """Return the moments after a move by h; `step` is E - 1 if negative, else E."""
    if step >= GONE:
        return 0.0, 0.0, 0.0
    a2 += h * (2.0 * a1 + h * a0)
    a1 += h * a0
    if step <= 0.0:
        return a0 + step * a0, a1 + step * a1, a2 + step * a2
    return step * a0, step * a1, step * a2


@jit
@no_type_check
def sweep(rate, numbers, order, places, weights, count, values, slopes):
    """Add the sums at the first `count` points to `values` and `slopes` [count], each unless empty.

    `places` [N] increase; the point at places[i] has the index order[i] and the weight weights[order[i]]. Points that tie with
    the present place wait in `tied` until the sweep moves on.
    """
    p0, p1, p2, q0, q1, q2 = numbers
    size = len(places)
    decays, wants_values, wants_slopes = rate > 0.0, len(values) > 0, len(slopes) > 0
    ordered = np.empty(size)
    step = np.empty(size if decays else 0)
    for i in range(size):
        ordered[i] = weights[order[i]]
        if decays:
            t = rate * (places[i] - places[max(i - 1, 0)])
            step[i] = math.expm1(-t) if t < NEAR else (math.exp(-t) if t < FAR else GONE)
    value = np.empty(size if wants_values else 0)
    slope = np.empty(size if wants_slopes else 0)
    a0 = a1 = a2 = tied = 0.0
    for i in range(size):  # from the left
        h = places[i] - places[max(i - 1, 0)]
        if h > 0.0:
            a0 += tied
            tied = 0.0
            if decays:
                a0, a1, a2 = moved(a0, a1, a2, h, step[i])
            else:
                a1 += h * a0
        if wants_values:
            value[i] = p0 * (a0 + tied) + p1 * a1 + p2 * a2
        if wants_slopes:
            slope[i] = q0 * a0 + q1 * a1 + q2 * a2
        tied += ordered[i]
    a0 = a1 = a2 = tied = 0.0
    for i in range(size - 1, -1, -1):  # from the right
        after = min(i + 1, size - 1)
        h = places[after] - places[i]
        if h > 0.0:
            a0 += tied
            tied = 0.0
            if decays:
                a0, a1, a2 = moved(a0, a1, a2, h, step[after])
            else:
                a1 += h * a0
        tied += ordered[i]  # with the point's own weight, which the sweep from the left leaves out
        index = order[i]
        if index < count:
            if wants_values:
                values[index] += value[i] + (p0 * (a0 + tied) + p1 * a1 + p2 * a2)
            if wants_slopes:
                slopes[index] += slope[i] - (q0 * a0 + q1 * a1 + q2 * a2)
