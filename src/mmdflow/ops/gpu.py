"""The compiled GPU backend: sums of radial kernels in float32 and float64 by Triton, in O(n d) memory.

Up to 16 dimensions one fused kernel takes exact differences: a thread owns a few rows of x, whose coordinates and sums stay in
its registers, and all threads pass over the points together, one at a time. Above, as on the CPU, squared distances come from a
matrix product of centred points, and a second product sums the gradients; pairs in which they cancel are measured again. cuBLAS
forms the products: a fused kernel would have to hold the d sums of a row, or form the distances again for every few of them.

Blocks of points are summed in the points' precision, totals in float64, always in the same order.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmdflow.kernels.distances import EXACT_DIM
from mmdflow.kernels.profiles import Profile

#: Points between two additions to the totals, which are as dear as a hundred others on GPUs with few float64 units.
CHUNK = 512
#: Programs that keep any GPU busy, and the fewest points of each: long sums over few rows are shared out among programs.
PROGRAMS, SPAN = 4096, 64
#: Rows and columns of a block of the product path: 32 MB in float32, in the second-level cache between its passes.
ROWS, COLUMNS = 2048, 4096
#: Held by the one sum at a time that has set the precision of products.
_PRECISION = threading.Lock()
#: Columns of a row that a program works on at a time.
TILE = 1024


def add(profile: Profile, x: Tensor, y: Tensor, weights: Tensor, values: Tensor | None, slopes: Tensor | None) -> None:
    """Add sum_j weights_j value(|x_i - y_j|^2) to `values` [n], and with slope and (x_i - y_j) to `slopes` [n, d], in float64."""
    with torch.cuda.device_of(x):
        (_directly if x.shape[1] <= EXACT_DIM else _by_products)(profile, x, y, weights, values, slopes)


def _directly(
    profile: Profile, x: Tensor, y: Tensor, weights: Tensor, values: Tensor | None, slopes: Tensor | None
) -> None:
    """Add the sums by exact differences."""
    (n, dim), m = x.shape, len(y)
    rows = 128 * max(2, 8 // dim) if x.dtype == torch.float32 else 128
    blocks = triton.cdiv(n, rows)
    span = max(SPAN, triton.cdiv(m, max(1, PROGRAMS // blocks)))
    spans = triton.cdiv(m, span)
    of_values, of_slopes = (None if t is None else t.new_empty(spans, *t.shape) for t in (values, slopes))
    points = torch.cat([y, weights[:, None]], 1)
    numbers = _numbers(profile, x.dtype, x.device)
    kind = type(profile).__name__
    _direct[blocks, spans](
        x,
        points,
        numbers,
        of_values,
        of_slopes,
        n,
        m,
        span,
        dim,
        kind,
        len(profile),
        rows,
        CHUNK,
        num_warps=4,
        enable_fp_fusion=True,
    )
    if values is not None and of_values is not None:
        values += of_values.sum(0)
    if slopes is not None and of_slopes is not None:
        slopes += of_slopes.sum(0)


def _by_products(
    profile: Profile, x: Tensor, y: Tensor, weights: Tensor, values: Tensor | None, slopes: Tensor | None
) -> None:
    """Add the sums by matrix products, a block of pairs at a time."""
    centre = y.mean(0)
    centred_x, centred_y = x - centre, y - centre
    x_norms, y_norms = centred_x.square().sum(1), centred_y.square().sum(1)
    numbers = _numbers(profile, x.dtype, x.device)
    kind, close = type(profile).__name__, 4 * math.sqrt(torch.finfo(x.dtype).eps)
    buffer = x.new_empty(min(ROWS, len(x)) * min(COLUMNS, len(y)))
    of_weights = None if slopes is None else slopes.new_zeros(len(x))  # sum_j w_j slope
    of_points = torch.zeros_like(x)  # sum_j w_j slope y_j
    with _full_precision():
        columns = zip(*(t.split(COLUMNS) for t in (y, centred_y, y_norms, weights)), strict=True)
        for points, centred, point_norms, w in columns:
            for start in range(0, len(x), ROWS):
                at = slice(start, start + ROWS)
                shape = len(x[at]), len(points)
                block = buffer[: math.prod(shape)].view(shape)
                torch.mm(centred_x[at], centred.T, out=block)
                _weigh[(len(block),)](
                    block,
                    x[at],
                    points,
                    x_norms[at],
                    point_norms,
                    w,
                    numbers,
                    None if values is None else values[at],
                    None if of_weights is None else of_weights[at],
                    None if slopes is None else slopes[at],
                    *(len(points), x.shape[1], close, kind, len(profile), TILE),
                    num_warps=4,
                    enable_fp_fusion=True,
                )
                if slopes is not None:
                    of_points[at].addmm_(block, centred)
    if slopes is not None and of_weights is not None:
        slopes += of_weights[:, None] * centred_x - of_points


@functools.lru_cache(maxsize=64)
def _numbers(profile: Profile, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the profile's numbers on the device: Triton would round arguments to float32."""
    return torch.tensor(profile, dtype=dtype, device=device)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Form float32 products in full precision, also where the program allows TF32, whose 10 bits are too few."""
    matmul = torch.backends.cuda.matmul
    with _PRECISION:  # the setting is the process's
        before = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = "none"  # it follows torch.backends.fp32_precision
            if matmul.fp32_precision != before:
                matmul.fp32_precision = before


@triton.jit(do_not_specialize=["n", "m", "span"])
@no_type_check
def _direct(
    x,
    points,
    numbers,
    values,
    slopes,
    n,
    m,
    span,
    DIM: tl.constexpr,
    KIND: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Sum over a span of the points [m, d + 1], each with its weight behind it, at a block of the rows of x [n, d].

    Sets its part of `values` [spans, n] and of `slopes` [spans, n, d] unless they are None.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask = row < n
    profile = _profile(numbers, COUNT)
    coordinates = ()
    value_total = tl.zeros([ROWS], tl.float64)
    slope_totals = ()
    for k in tl.static_range(DIM):
        coordinates += (tl.load(x + row * DIM + k, mask=mask, other=0.0),)
        slope_totals += (tl.zeros([ROWS], tl.float64),)
    start = tl.program_id(1).to(tl.int64) * span
    stop = tl.minimum(start + span, m)
    for first in range(start, stop, CHUNK):
        point = points + first * (DIM + 1)
        value_sum = tl.zeros([ROWS], x.dtype.element_ty)
        slope_sums = ()
        for _ in tl.static_range(DIM):
            slope_sums += (tl.zeros([ROWS], x.dtype.element_ty),)
        for _ in range(tl.minimum(stop - first, CHUNK).to(tl.int32)):
            r2 = tl.zeros([ROWS], x.dtype.element_ty)
            differences = ()
            for k in tl.static_range(DIM):
                difference = coordinates[k] - tl.load(point + k)
                differences += (difference,)
                r2 += difference * difference
            weight = tl.load(point + DIM)
            value, slope = _evaluate(r2, profile, KIND)
            value_sum += weight * value
            slope *= weight
            added = ()
            for k in tl.static_range(DIM):
                added += (slope_sums[k] + slope * differences[k],)
            slope_sums = added
            point += DIM + 1
        value_total += value_sum.to(tl.float64)
        added = ()
        for k in tl.static_range(DIM):
            added += (slope_totals[k] + slope_sums[k].to(tl.float64),)
        slope_totals = added
    place = tl.program_id(1).to(tl.int64) * n + row
    if values is not None:
        tl.store(values + place, value_total, mask=mask)
    if slopes is not None:
        for k in tl.static_range(DIM):
            tl.store(slopes + place * DIM + k, slope_totals[k], mask=mask)


@triton.jit(do_not_specialize=["dim"])
@no_type_check
def _weigh(
    block,
    x,
    y,
    x_norms,
    y_norms,
    weights,
    numbers,
    values,
    sums,
    slopes,
    m,
    dim,
    CLOSE: tl.constexpr,
    KIND: tl.constexpr,
    COUNT: tl.constexpr,
    TILE: tl.constexpr,
):
    """Turn products <x_i, y_j>, [n, m], into w_j slope in place; add w_j value to `values`, w_j slope to `sums`, [n].

    The norms and products are those of centred points. The squared distance |x|^2 + |y|^2 - 2 <x, y> cancels below CLOSE times
    the norms: such pairs are measured again from the rows of x [n, d] and y [m, d] as given. Their w_j slope (x_i - y_j) is
    added to `slopes` [n, d], and 0 takes its place in the block. Where `slopes` is None, the block is left as it is.
    """
    row = tl.program_id(0).to(tl.int64)
    block += row * m
    x += row * dim
    x_norm = tl.load(x_norms + row)
    profile = _profile(numbers, COUNT)
    value_sums = tl.zeros([TILE], x.dtype.element_ty)
    slope_sums = tl.zeros([TILE], x.dtype.element_ty)
    for start in range(0, m, TILE):
        column = start + tl.arange(0, TILE)
        mask = column < m
        weight = tl.load(weights + column, mask=mask, other=0.0)
        norms = x_norm + tl.load(y_norms + column, mask=mask, other=0.0)
        r2 = norms - 2 * tl.load(block + column, mask=mask, other=0.0)
        close = r2 <= CLOSE * norms
        points = y + column.to(tl.int64) * dim
        cancels = tl.max(close.to(tl.int32), 0) > 0
        if cancels:
            exact = tl.zeros([TILE], x.dtype.element_ty)
            for k in range(dim):
                difference = tl.load(x + k) - tl.load(points + k, mask=mask, other=0.0)
                exact += difference * difference
            r2 = tl.where(close, exact, r2)
        value, slope = _evaluate(r2, profile, KIND)
        value_sums += weight * value
        if slopes is not None:
            slope = tl.where(r2 > 0, weight * slope, 0.0)
            if cancels:
                of_close = tl.where(close & mask, slope, 0.0)
                slope = tl.where(close, 0.0, slope)
                total = slopes + row * dim
                for k in range(dim):
                    difference = tl.load(x + k) - tl.load(points + k, mask=mask, other=0.0)
                    tl.store(total + k, tl.load(total + k) + tl.sum((of_close * difference).to(tl.float64), 0))
            slope_sums += slope
            tl.store(block + column, slope, mask=mask)
    if values is not None:
        tl.store(values + row, tl.load(values + row) + tl.sum(value_sums.to(tl.float64), 0))
    if slopes is not None:
        tl.store(sums + row, tl.load(sums + row) + tl.sum(slope_sums.to(tl.float64), 0))


@triton.jit
@no_type_check
def _profile(numbers, COUNT: tl.constexpr):
    """Return the numbers of a profile as a tuple."""
    profile = ()
    for k in tl.static_range(COUNT):
        profile += (tl.load(numbers + k),)
    return profile


@triton.jit
@no_type_check
def _evaluate(r2, profile, KIND: tl.constexpr):
    """Return (value, slope) of a profile at r2; finite at 0."""
    if KIND == "Exponential":
        value = tl.exp2(profile[0] * r2)
        slope = value
    elif KIND == "Decay":
        rate, p0, p1, p2, q0, q1, of_inverse = profile
        inverse = _rsqrt(r2)
        r = r2 * inverse
        decay = tl.exp2(rate * r)
        value = decay * (p0 + r * (p1 + r * p2))
        slope = decay * (q0 + r * q1 + of_inverse * inverse)
    elif KIND == "Power":
        base, rate, exponent, below = profile
        u = base + rate * r2
        logarithm = tl.log2(_above_zero(u))
        value = tl.where(u == 0, 0.0, tl.exp2(exponent * logarithm))
        slope = tl.where(u == 0, 0.0, tl.exp2(below * logarithm))
    elif KIND == "InverseRoot":
        value = _rsqrt(profile[0] + r2)
        slope = value * value * value
    else:
        tl.static_assert(KIND == "Distance")
        slope = _rsqrt(r2)
        value = r2 * slope
    return value, slope


@triton.jit
@no_type_check
def _rsqrt(u):
    """Return u^-1/2 for u >= 0; large and finite at 0, so that its product with 0 is 0."""
    return tl.rsqrt(_above_zero(u))


@triton.jit
@no_type_check
def _above_zero(u):
    """Return u, or a small number above 0 whose powers are in range if that is greater; NaN for NaN."""
    return tl.maximum(u, 1e-36 if u.dtype == tl.float32 else 1e-300, propagate_nan=tl.PropagateNan.ALL)
