"""Sliced sums of -|s - t| on the CPU, by compiled ranks: float32, in blocks of slices, on torch's number of threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmdflow.ops import numba_hadamard, numba_ranks, slices, threads

#: Projections of a block, whose rows are sorted one after the other: 4 MB up to NARROW dimensions, 16 MB for products beyond.
BLOCK, WIDE_BLOCK = 2**20, 2**22
#: The same for each of several threads: torch's own threads spin for milliseconds after a product before they leave their cores.
SHARED_BLOCK = 2**22
#: Projections on a block of structured directions at most, 256 MB; more are formed by products.
STRUCTURED_BLOCK = 2**26


class Points(NamedTuple):
    """The points of a signed measure, those at which slopes are wanted first, with their weights and typical sizes.

    The radius holds all points, `mean` is their mean norm; `limit` is how far bins reach, which the measure's own points decide.
    """

    parts: tuple[Tensor, ...]  # [d, n] each
    weights: np.ndarray | None  # [N]; None: 1/n on the first part, -1/m on the second
    radius: float
    mean: float
    limit: float

    @property
    def size(self) -> int:
        """N, how many points there are in all."""
        return sum(part.shape[1] for part in self.parts)


def gather(z: Tensor | None, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], norms: Tensor) -> Points:
    """Return the measure x - y of points [n, d] and weights [n] each, seen from z (None: from x).

    `norms` are those of the points of x and y.
    """
    parts = (x[0], y[0]) if z is None else (z, x[0], y[0])
    limit = slices.bin_limit(norms, x[0].shape[1])
    norms = norms if z is None else torch.cat([slices.norms(z), norms])
    even = z is None and all(_even(weights) for _, weights in (x, y))
    weights = None
    if not even:
        unweighted = [] if z is None else [z.new_zeros(len(z))]
        weights = torch.cat([*unweighted, x[1], -y[1]]).double().numpy()
    return Points(tuple(part.T for part in parts), weights, float(norms.max()), float(norms.mean()), limit)


def _even(weights: Tensor) -> bool:
    """Return whether all weights are 1 / n."""
    return bool(((weights * len(weights) - 1).abs() < 1e-5).all()) and bool((weights == weights[0]).all())


def slopes(
    xi: Tensor,
    points: Points,
    *,
    binned: bool,
    half: bool = False,
    projected: Tensor | None = None,
    structure: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, float]:
    """Return the sum over directions xi [P, d] of xi times the slope, [n, d], and the mean error bound of its slopes.

    Args:
        xi: directions.
        points: the measure.
        binned: interpolate in histograms of the projections where their error bound is small, instead of sorting.
        half: form products with directions in bfloat16.
        projected: the projections of the last part of the points, [P, m], where they are known.
        structure: the signs [blocks, 2, D] and scales [P] of structured directions, whose transforms take the place of products.
    """
    split, grid = points.parts[0].shape[1], _grid(points, 1.01 if half else 1.0)
    total = torch.zeros_like(points.parts[0])
    if not math.isfinite(points.radius):
        return total.fill_(math.nan).T, math.nan
    bounds, works = np.zeros(len(xi)), _Works(points.size)
    if structure is not None and structure[0].shape[2] * points.size > STRUCTURED_BLOCK:
        structure = None
    for start, directions, block in _blocks(xi, points, half, projected, structure):
        write = partial(
            _write_slopes,
            values=block.numpy(),
            bounds=bounds[start : start + len(block)],
            points=points,
            grid=grid,
            works=works,
            binned=binned and points.limit != 0,
        )
        threads.over_rows(write, len(block), len(block))
        if structure is not None:
            b = start // structure[0].shape[2]
            scales = structure[1][start : start + len(block)]
            of_block = torch.empty_like(total.T, memory_format=torch.contiguous_format)
            total.T.add_(numba_hadamard.back(block, structure[0][b : b + 1], scales, len(total), out=of_block))
        elif half:
            total.T.add_(slices.product(block[:, :split].T, directions, half))
        else:
            total.addmm_(directions.T, block[:, :split])
    return total.T, float(bounds.mean())


def _write_slopes(
    rows: slice,
    values: np.ndarray,
    bounds: np.ndarray,
    points: Points,
    grid: tuple[np.float32, np.float32],
    works: _Works,
    binned: bool,
) -> None:
    """Write slopes in the place of a block's projections; binned ones where their bound, which is kept, is small enough."""
    split, piece, bound = points.parts[0].shape[1], values[rows], bounds[rows]
    if not binned:
        with works.one() as work:
            numba_ranks.slopes(piece, split, points.weights, *grid, work)
        return
    count = slices.bins(sum(part.shape[1] for part in points.parts[-2:]))
    numba_ranks.binned_slopes(piece, split, points.weights, points.limit, count, slices.TOLERANCE, bound)
    for p in np.flatnonzero(bound > slices.TOLERANCE):
        with works.one() as work:
            numba_ranks.slopes(piece[p : p + 1], split, points.weights, *grid, work)
        bound[p] = 0


def potentials(xi: Tensor, points: Points) -> Tensor:
    """Return the sum over directions of the potential at all points, [N]."""
    size = points.size
    if not math.isfinite(points.radius):
        return xi.new_full((size,), math.nan)
    weights, grid = points.weights, _grid(points)
    if weights is None:
        n, m = (part.shape[1] for part in points.parts)
        weights = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])
    total, works = np.zeros(size), _Works(size)
    for _, _, block in _blocks(xi, points):
        add = partial(_potentials, values=block.numpy(), weights=weights, grid=grid, works=works)
        for part in threads.over_rows(add, len(block), len(block)):
            total += part
    return torch.from_numpy(total).to(xi.dtype)


def _potentials(
    rows: slice, values: np.ndarray, weights: np.ndarray, grid: tuple[np.float32, np.float32], works: _Works
) -> np.ndarray:
    """Return the sum of the potential over rows of projections."""
    part = np.zeros(values.shape[1])
    with works.one() as work:
        numba_ranks.potentials(values[rows], weights, *grid, part, work)
    return part


class _Works:
    """Memory for sorting rows of N points, as many pieces as threads want at a time."""

    def __init__(self, size: int) -> None:
        self.size, self.free = size, list[np.ndarray]()

    @contextmanager
    def one(self) -> Iterator[np.ndarray]:
        """Lend a piece."""
        try:
            work = self.free.pop()
        except IndexError:
            work = np.empty((2, self.size), np.uint64)
        yield work
        self.free.append(work)


def _grid(points: Points, margin: float = 1.0) -> tuple[np.float32, np.float32]:
    """Return the radius, with a margin for rounded projections, and the usual size of the points."""
    return np.float32(max(margin * points.radius, 1e-20)), np.float32(max(points.mean, 1e-20))


def _blocks(
    xi: Tensor,
    points: Points,
    half: bool = False,
    projected: Tensor | None = None,
    structure: tuple[Tensor, Tensor] | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Project all points on a few directions at a time: where the block starts, its directions, the projections [p, N]."""
    size = points.size
    if structure is not None:
        signs, scales = structure
        buffer = xi.new_empty(min(len(xi), signs.shape[2]), size)
        for b, piece in enumerate(threads.parts(len(xi), signs.shape[2])):
            block, column = buffer[: piece.stop - piece.start], 0
            for part in points.parts:
                numba_hadamard.project(part.T, signs[b : b + 1], scales[piece], out=block, column=column)
                column += part.shape[1]
            yield piece.start, xi[piece], block
        return
    most = BLOCK if xi.shape[1] <= slices.NARROW else WIDE_BLOCK
    workers = torch.get_num_threads()
    if workers > 1:
        most = SHARED_BLOCK * workers
    count = min(len(xi), max(1, most // size // workers) * workers)  # as many rows for every thread
    parts = [part.bfloat16() if half else part for part in points.parts]
    buffer = torch.from_numpy(np.empty((count, size), np.float32))  # numpy asks for large pages
    for piece in threads.parts(len(xi), count):
        directions = xi[piece]
        block = buffer[: len(directions)]
        columns = block.split([part.shape[1] for part in points.parts], dim=1)
        for k, (goal, on) in enumerate(zip(columns, parts, strict=True)):
            if projected is not None and k == len(parts) - 1:
                goal.copy_(projected[piece])
            elif half:
                goal.copy_(slices.product(directions, on, half))
            else:
                torch.mm(directions, on, out=goal)
        yield piece.start, directions, block
