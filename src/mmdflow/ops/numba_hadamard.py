"""Structured projections by fast Walsh-Hadamard transforms, compiled by numba: O(D log D) a point and block, not O(D d).

A block of signs s, t [2, D] stands for the D rows of H diag(t) H diag(s), restricted to the points' d <= D coordinates; H is
the Walsh-Hadamard matrix, D a power of two, and factors such as 1 / D are left to the rows' scales. A tile [D, lanes] holds a
few points side by side, each of its rows one vector of a line of the cache, up to 16 of which are added and subtracted in
registers at a time. A group of tiles that fits the second-level cache goes together: writing single lines of a large array is
slow.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from mmdflow.ops import threads
from mmdflow.ops.numba_sums import jit, use_widest_vectors

#: Bytes of a row of a tile.
LINE = 64
#: Bytes of the tiles that are worked on together.
GROUP = 2**20
#: Numbers of a task: tens of milliseconds.
TASK = 2**22


def project(
    points: Float[Tensor, "n d"],
    signs: Float[Tensor, "blocks 2 D"],
    scales: Float[Tensor, " P"],
    *,
    out: Float[Tensor, "P N"] | None = None,
    column: int = 0,
) -> Float[Tensor, "P n"]:
    """Project the points on the first P rows of the blocks, times the rows' scales.

    The projections are written to n columns of `out` from `column` on, if given: new memory is slow.
    """
    n, tiles = len(points), _tiles(points, signs, GROUP)
    x, width = points.contiguous(), tiles[:, 0].size
    if n < width:
        x = torch.nn.functional.pad(x, (0, 0, 0, width - n))
    separate = out is None or n < width
    to = x.new_empty(len(scales), len(x)) if separate or out is None else out
    at = 0 if separate else column
    s, by = signs.contiguous().numpy(), scales.contiguous().numpy()
    threads.over_rows(
        lambda part: _project(x.numpy(), s, by, part.start, part.stop, np.empty_like(tiles), to.numpy(), at),
        len(x),
        max(1, TASK // signs[:, 0].numel()),
    )
    projections = to[:, at : at + n]
    return projections if out is None or to is out else out[:, column : column + n].copy_(projections)


def back(
    slopes: Float[Tensor, "P N"],
    signs: Float[Tensor, "blocks 2 D"],
    scales: Float[Tensor, " P"],
    dim: int,
    *,
    out: Float[Tensor, "n {dim}"] | None = None,
) -> Float[Tensor, "n {dim}"]:
    """Return the sums of the rows in `dim` dimensions, times their scales and slopes: the adjoint of `project`.

    The slopes are those of the first n points, as many as `out` has rows; of all where it is not given.
    """
    n = slopes.shape[1] if out is None else len(out)
    tiles = _tiles(slopes.T[:n], signs, GROUP // 2)
    rows, width = slopes.contiguous(), tiles[:, 0].size
    if n < width:
        rows = torch.nn.functional.pad(rows[:, :n], (0, width - n))
    to = rows.new_empty(max(n, width), dim) if out is None or n < width else out
    s, by = signs.contiguous().numpy(), scales.contiguous().numpy()
    new = np.empty_like
    threads.over_rows(
        lambda part: _back(rows.numpy(), s, by, part.start, part.stop, new(tiles), new(tiles), to.numpy()),
        len(to),
        max(1, TASK // signs[:, 0].numel()),
    )
    return to[:n] if out is None or to is out else out.copy_(to[:n])


def _tiles(points: Tensor, signs: Tensor, size: int) -> np.ndarray:
    """Return tiles of this many bytes, fewer for a few points."""
    lanes = LINE // points.element_size()
    most = -(-len(points) // lanes)
    return points.new_empty(max(1, min(size // (signs.shape[2] * LINE), most)), signs.shape[2], lanes).numpy()


@no_type_check
def _butterflies(radix):
    """Make the function that transforms `radix` rows start, start + step, ... of a tile in place, in registers."""

    @intrinsic
    def transform(typing, tile, start, step):
        def code(context, builder, signature, args):
            array = context.make_array(signature.args[0])(context, builder, args[0])
            lanes = LINE * 8 // signature.args[0].dtype.bitwidth
            row = ir.VectorType(context.get_value_type(signature.args[0].dtype), lanes)
            base = builder.bitcast(array.data, row.as_pointer())
            places, rows, place = [], [], args[1]
            for _ in range(radix):
                places.append(cgutils.gep_inbounds(builder, base, place))
                rows.append(builder.load(places[-1], align=8))
                place = builder.add(place, args[2])
            half = 1
            while half < radix:
                for k in range(radix):
                    if not k & half:
                        a, b = rows[k], rows[k + half]
                        rows[k], rows[k + half] = builder.fadd(a, b), builder.fsub(a, b)
                half *= 2
            for pointer, value in zip(places, rows, strict=True):
                builder.store(value, pointer, align=8)
            return context.get_dummy_value()

        return types.void(tile, types.intp, types.intp), code

    return transform


_by_16, _by_8, _by_4, _by_2 = map(_butterflies, (16, 8, 4, 2))


@jit
@no_type_check
def _transform(tile):
    """Replace a tile [D, lanes] by H tile."""
    use_widest_vectors()
    size = tile.shape[0]
    step = 1
    while step < size:
        radix = min(16, size // step)
        for group in range(0, size, step * radix):
            for k in range(group, group + step):
                if radix == 16:
                    _by_16(tile, k, step)
                elif radix == 8:
                    _by_8(tile, k, step)
                elif radix == 4:
                    _by_4(tile, k, step)
                else:
                    _by_2(tile, k, step)
        step *= radix


@jit
@no_type_check
def _transform_twice(tile, signs):
    """Replace a tile by H diag(signs) H tile."""
    use_widest_vectors()
    _transform(tile)
    for k in range(tile.shape[0]):
        sign = signs[k]
        for lane in range(tile.shape[1]):
            tile[k, lane] *= sign
    _transform(tile)


@jit
@no_type_check
def _project(points, signs, scales, start, stop, tiles, out, column):
    """Write the projections of the points start ... stop of [n, d] to `out` [P, N], where point 0 has its place at `column`.

    n fills a group of tiles.
    """
    use_widest_vectors()
    n, dim = points.shape
    size, lanes = tiles.shape[1], LINE // points.itemsize
    for first in range(start, stop, len(tiles) * lanes):
        first = min(first, n - len(tiles) * lanes)  # the last group repeats some points
        for b in range(signs.shape[0]):
            for g in range(len(tiles)):
                tile = tiles[g]
                some = points[first + g * lanes : first + (g + 1) * lanes]
                for j in range(dim):
                    for lane in range(lanes):
                        tile[j, lane] = signs[b, 0, j] * some[lane, j]
                tile[dim:] = 0
                _transform_twice(tile, signs[b, 1])
            for k in range(b * size, min((b + 1) * size, len(scales))):
                scale = scales[k]
                for g in range(len(tiles)):
                    to = out[k, column + first + g * lanes : column + first + (g + 1) * lanes]
                    for lane in range(lanes):
                        to[lane] = scale * tiles[g, k - b * size, lane]


@jit
@no_type_check
def _back(slopes, signs, scales, start, stop, tiles, totals, out):
    """Write the sums of rows times slopes [P, n] for the points start ... stop to `out` [n, d]; n fills a group of tiles."""
    use_widest_vectors()
    n, dim = out.shape
    size, lanes = tiles.shape[1], LINE // slopes.itemsize
    for first in range(start, stop, len(tiles) * lanes):
        first = min(first, n - len(tiles) * lanes)
        totals[:] = 0
        for b in range(signs.shape[0]):
            rows = min(size, len(scales) - b * size)
            for k in range(rows):
                scale = scales[b * size + k]
                for g in range(len(tiles)):
                    some = slopes[b * size + k, first + g * lanes : first + (g + 1) * lanes]
                    for lane in range(lanes):
                        tiles[g, k, lane] = scale * some[lane]
            tiles[:, rows:] = 0
            for g in range(len(tiles)):
                _transform_twice(tiles[g], signs[b, 1])
                for j in range(dim):
                    sign = signs[b, 0, j]
                    for lane in range(lanes):
                        totals[g, j, lane] += sign * tiles[g, j, lane]
        for g in range(len(tiles)):
            for lane in range(lanes):
                to = out[first + g * lanes + lane]
                for j in range(dim):
                    to[j] = totals[g, j, lane]
