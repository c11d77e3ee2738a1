"""Spreading to the nodes of a grid and interpolation between them by B-splines, compiled by numba for each dimension and order.

Nodes are numbered with the last of three axes running fastest; a grid of fewer dimensions has one node along the first axes. A
point's p nodes along an axis begin at its cell, and its shares in them are polynomials of its place in the cell.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np

from mmdflow.ops.numba_sums import jit


@jit
@no_type_check
def place(point, low, scale, table, shares, cells):
    """Write the first of the nodes around a point to `cells` [3] and its shares in them to `shares` [3, p].

    The last axes belong to the point [d]; `table` [p, p] holds the coefficients of the shares, from f^0 on.
    """
    order, dim = table.shape[0], len(point)
    for axis in range(dim):
        to = 3 - dim + axis
        u = (point[axis] - low[axis]) * scale
        cell = int(u)
        f = table.dtype.type(u - cell)
        cells[to] = cell - (order // 2 - 1)
        for j in range(order):
            shares[to, j] = table[order - 1, j]
        for k in range(order - 2, -1, -1):
            for j in range(order):
                shares[to, j] = shares[to, j] * f + table[k, j]


@functools.cache
def loops(dim: int, order: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the loops `spread` and `interpolate`; numbers of the outer function are constants in what numba compiles.

    Compiled at the first call, kept on disk after that.
    """
    rows, columns = (order if dim == 3 else 1), (order if dim >= 2 else 1)

    @jit
    @no_type_check
    def spread(points, weights, low, scale, table, sizes, nodes):
        """Add weights [m] of points [m, d] to the nodes [M]."""
        shares, cells = np.ones((3, order), table.dtype), np.zeros(3, np.int64)
        for i in range(len(points)):
            place(points[i], low, scale, table, shares, cells)
            weight = table.dtype.type(weights[i])
            for a in range(rows):
                for b in range(columns):
                    start = ((cells[0] + a) * sizes[1] + cells[1] + b) * sizes[2] + cells[2]
                    row = nodes[start : start + order]
                    share = weight * shares[0, a] * shares[1, b]
                    for j in range(order):
                        row[j] += share * shares[2, j]

    @jit
    @no_type_check
    def interpolate(points, low, scale, table, sizes, fields, totals):
        """Write fields [c, M] at points [n, d] to `totals` [c, n]."""
        shares, cells = np.ones((3, order), table.dtype), np.zeros(3, np.int64)
        for i in range(len(points)):
            place(points[i], low, scale, table, shares, cells)
            for c in range(len(fields)):
                total = table.dtype.type(0)
                for a in range(rows):
                    for b in range(columns):
                        start = ((cells[0] + a) * sizes[1] + cells[1] + b) * sizes[2] + cells[2]
                        row = fields[c, start : start + order]
                        of_row = table.dtype.type(0)
                        for j in range(order):
                            of_row += shares[2, j] * row[j]
                        total += shares[0, a] * shares[1, b] * of_row
                totals[c, i] = total

    return spread, interpolate
