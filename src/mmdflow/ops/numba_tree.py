"""Loops of the fast multipole method, compiled by numba: the tree, who meets whom in it, expansions, and sums over near points.

Boxes are rows of an integer array with the columns below, level by level from the root. Axes are three; of fewer, the last ones
count. Points are ordered by the bits of their cells (Morton order), so that a box holds a slice of them. `cube` is the lower
corner [3] and the edge of the root. An expansion of a box is a row of coefficients of products T_a(t_0) T_b(t_1) T_c(t_2) of
Chebyshev polynomials, t in [-1, 1] along every edge of the box; `rows` [r, 4] holds a, b, and where the coefficients of
c = 0, 1, ... begin and how many there are.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba.extending import overload

from mmdflow.ops import numba_sums
from mmdflow.ops.numba_sums import jit

#: Columns: level; slices of targets and of sources; first child and number of children; place in the parent; cell on its level.
LEVEL, T0, T1, S0, S1, CHILD, CHILDREN, PLACE, CELL, COLUMNS = 0, 1, 2, 3, 4, 5, 6, 7, 8, 11
#: Offsets of boxes that meet by expansions, along an axis: -3 to 3.
REACH = 7
#: Points that are expanded side by side.
SIDE = 64
#: Near points that are gathered at a time.
GATHERED = 4096


@jit
@no_type_check
def keys(points, low, scale, bits):
    """Return the cells of points [n, d] on a grid of 2^bits cells along an axis, as integers of their bits in turn."""
    n, dim = points.shape
    result = np.zeros(n, np.int64)
    last = (1 << bits) - 1
    for i in range(n):
        key = 0
        for axis in range(dim):
            u = min(max(int((points[i, axis] - low[axis]) * scale), 0), last)
            if dim == 2:
                u = (u | (u << 16)) & 0x0000FFFF0000FFFF
                u = (u | (u << 8)) & 0x00FF00FF00FF00FF
                u = (u | (u << 4)) & 0x0F0F0F0F0F0F0F0F
                u = (u | (u << 2)) & 0x3333333333333333
                u = (u | (u << 1)) & 0x5555555555555555
            elif dim == 3:
                u = (u | (u << 32)) & 0x001F00000000FFFF
                u = (u | (u << 16)) & 0x001F0000FF0000FF
                u = (u | (u << 8)) & 0x100F00F00F00F00F
                u = (u | (u << 4)) & 0x10C30C30C30C30C3
                u = (u | (u << 2)) & 0x1249249249249249
            key |= u << (dim - 1 - axis)
        result[i] = key
    return result


@jit
@no_type_check
def meet(boxes, a, b):
    """Return whether two boxes touch, the code of their offset if they are of one level, and which is the finer (-1, 0, 1)."""
    difference = boxes[b, LEVEL] - boxes[a, LEVEL]
    touch, code = True, 0
    for axis in range(3):
        first, second = boxes[a, CELL + axis], boxes[b, CELL + axis]
        if difference >= 0:
            low, high = (first << difference) - 1, (first + 1) << difference
            touch = touch and low <= second <= high
        else:
            low, high = (second << -difference) - 1, (second + 1) << -difference
            touch = touch and low <= first <= high
        code = code * REACH + second - first + REACH // 2
    return touch, code, difference


@jit
@no_type_check
def walk(boxes, nodes, slots, most, starts, far, near, local):
    """Find how every target meets every source once: boxes by expansions (`far`), points, or points and expansions.

    `starts` counts the pairs of each level and slot in `far` [p, 3] (with the code of the offset, whose slot `slots` gives), of
    each box of targets in `near` [p, 2] (sources of a box, or if ~box is given its expansion) and in `local` [p, 2] (sources into
    the expansion of the targets' box). Lists are filled from there on where they have rows. `nodes` says how many points an
    expansion is worth.
    """
    at_far, at_near, at_local = starts
    stack = np.empty((4096, 2), np.int64)
    stack[0, 0] = stack[0, 1] = 0
    top = 1
    while top > 0:
        top -= 1
        a, b = stack[top, 0], stack[top, 1]
        targets, sources = boxes[a, T1] - boxes[a, T0], boxes[b, S1] - boxes[b, S0]
        if targets == 0 or sources == 0:
            continue
        touch, code, finer = meet(boxes, a, b)
        if not touch and finer == 0:
            slot = boxes[a, LEVEL] * most + slots[code]
            if len(far):
                far[at_far[slot], 0], far[at_far[slot], 1], far[at_far[slot], 2] = a, b, code
            at_far[slot] += 1
            continue
        split_a, split_b = boxes[a, CHILDREN] > 0, boxes[b, CHILDREN] > 0
        if not touch and finer < 0 and targets > nodes:
            if len(local):
                local[at_local[a], 0], local[at_local[a], 1] = a, b
            at_local[a] += 1
            continue
        if not touch or not (split_a or split_b):
            if len(near):
                near[at_near[a], 0] = a
                near[at_near[a], 1] = ~b if not touch and finer > 0 and sources > nodes else b
            at_near[a] += 1
            continue
        if top + 64 > len(stack):
            more = np.empty((2 * len(stack), 2), np.int64)
            for i in range(top):
                more[i, 0], more[i, 1] = stack[i, 0], stack[i, 1]
            stack = more
        first_a, of_a = (boxes[a, CHILD], boxes[a, CHILDREN]) if split_a else (a, 1)
        first_b, of_b = (boxes[b, CHILD], boxes[b, CHILDREN]) if split_b else (b, 1)
        for child_a in range(first_a, first_a + of_a):
            for child_b in range(first_b, first_b + of_b):
                stack[top, 0], stack[top, 1] = child_a, child_b
                top += 1


@jit
@no_type_check
def polynomials(points, start, count, centre, half, table):
    """Write T_k(t) of `count` points in a box, from `start` on, to `table` [3, degree + 1, SIDE]."""
    dim, degree = points.shape[1], table.shape[1] - 1
    for axis in range(dim if degree > 0 else 0):
        to = 3 - dim + axis
        t = table[to, 1]
        for i in range(count):
            t[i] = (points[start + i, axis] - centre[to]) / half
        for k in range(2, degree + 1):
            first, second, third = table[to, k - 2], table[to, k - 1], table[to, k]
            for i in range(SIDE):
                third[i] = 2.0 * t[i] * second[i] - first[i]


@jit
@no_type_check
def place(boxes, box, cube, centre):
    """Write the centre of a box to `centre` [3] and return half its edge."""
    low, width = cube
    edge = width * 0.5 ** boxes[box, LEVEL]
    for axis in range(3):
        centre[axis] = low[axis] + (boxes[box, CELL + axis] + 0.5) * edge
    return 0.5 * edge


@jit
@no_type_check
def expand(boxes, points, weights, cube, rows, moments):
    """Add sum_j w_j T_a T_b T_c(points_j) of boxes without children to `moments` [boxes, P]."""
    table, w = np.ones((3, rows[0, 3], SIDE)), np.zeros(SIDE)
    centre, product = np.zeros(3), np.empty(SIDE)
    for box in range(len(boxes)):
        if boxes[box, CHILDREN] > 0:
            continue
        half = place(boxes, box, cube, centre)
        for start in range(boxes[box, S0], boxes[box, S1], SIDE):
            count = min(SIDE, boxes[box, S1] - start)
            polynomials(points, start, count, centre, half, table)
            for i in range(SIDE):  # what is left of the last points has weight 0
                w[i] = weights[start + i] if i < count else 0.0
            for row in range(len(rows)):
                first, second = table[0, rows[row, 0]], table[1, rows[row, 1]]
                for i in range(SIDE):
                    product[i] = w[i] * first[i] * second[i]
                for k in range(rows[row, 3]):
                    third, total = table[2, k], 0.0
                    for i in range(SIDE):
                        total += product[i] * third[i]
                    moments[box, rows[row, 2] + k] += total


@jit
@no_type_check
def turn(far, moves, signs, moments, turned):
    """Write the expansions of the sources of pairs to `turned` [pairs, P], with axes turned as the codes of their offsets ask."""
    for pair in range(len(far)):
        moment, move, sign = moments[far[pair, 1]], moves[far[pair, 2]], signs[far[pair, 2]]
        for k in range(len(moment)):
            turned[pair, move[k]] = sign[k] * moment[k]


@jit
@no_type_check
def turn_back(far, moves, signs, turned, constant, moments, locals_):
    """Add `turned` [pairs, P], with axes turned back, and `constant` times the mass, to expansions of the targets of pairs."""
    for pair in range(len(far)):
        local, move, sign = locals_[far[pair, 0]], moves[far[pair, 2]], signs[far[pair, 2]]
        for k in range(len(local)):
            local[k] += sign[k] * turned[pair, move[k]]
        local[0] += constant * moments[far[pair, 1], 0]


@jit
@no_type_check
def evaluate(boxes, span, points, cube, rows, locals_, steepness, values, slopes):
    """Add expansions of boxes without children at their targets to `values` [n], and gradients / steepness to `slopes` [n, d].

    `span` is the first of the boxes, and the one after the last.
    """
    table, rise = np.ones((3, rows[0, 3], SIDE)), np.zeros((3, rows[0, 3], SIDE))
    centre, total = np.zeros(3), np.empty((4, SIDE))  # the gradient and the value
    inner, steep = np.empty(SIDE), np.empty(SIDE)
    dim, degree = points.shape[1], rows[0, 3] - 1
    for box in range(span[0], span[1]):
        if boxes[box, CHILDREN] > 0:
            continue
        half = place(boxes, box, cube, centre)
        for start in range(boxes[box, T0], boxes[box, T1], SIDE):
            count = min(SIDE, boxes[box, T1] - start)
            polynomials(points, start, count, centre, half, table)
            for to in range(3 - dim if degree > 0 else 3, 3):
                for i in range(SIDE):
                    rise[to, 1, i] = 1.0
                for k in range(2, degree + 1):
                    for i in range(SIDE):
                        now = 2.0 * (table[to, k - 1, i] + table[to, 1, i] * rise[to, k - 1, i])
                        rise[to, k, i] = now - rise[to, k - 2, i]
            for axis in range(4):
                for i in range(SIDE):
                    total[axis, i] = 0.0
            for row in range(len(rows)):
                a, b = rows[row, 0], rows[row, 1]
                for i in range(SIDE):
                    inner[i] = steep[i] = 0.0
                for k in range(rows[row, 3]):
                    coefficient = locals_[box, rows[row, 2] + k]
                    for i in range(SIDE):
                        inner[i] += coefficient * table[2, k, i]
                        steep[i] += coefficient * rise[2, k, i]
                for i in range(SIDE):
                    both = table[0, a, i] * table[1, b, i]
                    total[3, i] += both * inner[i]
                    total[2, i] += both * steep[i]
                    total[1, i] += table[0, a, i] * rise[1, b, i] * inner[i]
                    total[0, i] += rise[0, a, i] * table[1, b, i] * inner[i]
            for i in range(count):
                values[start + i] += total[3, i]
                for axis in range(dim):
                    slopes[start + i, axis] += total[3 - dim + axis, i] / (half * steepness)


DIRECT = {dim: numba_sums.direct(dim) for dim in (1, 2, 3)}


@no_type_check
def direct(profile, rows, points, weights, values, slopes, axes):
    """The compiled sums over points in the dimension that is the length of the tuple `axes`."""
    raise NotImplementedError


@overload(direct)
@no_type_check
def _direct(profile, rows, points, weights, values, slopes, axes):
    of_dim = DIRECT[axes.count]

    def call(profile, rows, points, weights, values, slopes, axes):
        of_dim(profile, rows, points, weights, values, slopes)

    return call


@jit
@no_type_check
def near(profile, boxes, span, met, points, cube, nodes, axes, values, slopes):
    """Add the sums over near points, and over the nodes of expansions that near targets meet.

    Args: `span` as for `evaluate`; `met` is `near` and its starts as `walk` gives them; `points` are the targets [n, d], the
    sources [m, d] and their weights; `nodes` are those of a box in [-1, 1], [nodes, d], what they weigh, [rows, nodes], and the
    rows of the boxes; `axes` is a tuple of d numbers.
    """
    pairs, starts = met
    dim = len(axes)
    x, y, weights = points
    grid, charges, seats = nodes
    real = x.dtype.type
    buffer, w = np.empty(dim * GATHERED, x.dtype), np.empty(GATHERED, x.dtype)
    centre, other = np.zeros(3), np.zeros(3)
    for a in range(span[0], span[1]):
        left = 0
        for pair in range(starts[a], starts[a + 1]):
            b = pairs[pair, 1]
            left += len(grid) if b < 0 else boxes[b, S1] - boxes[b, S0]
        if left == 0:
            continue
        t0, t1 = boxes[a, T0], boxes[a, T1]
        place(boxes, a, cube, centre)
        rows = np.empty((t1 - t0, dim), x.dtype)  # from the centre: no digits are lost far from the origin
        for i in range(t1 - t0):
            for axis in range(dim):
                rows[i, axis] = real(x[t0 + i, axis] - centre[3 - dim + axis])
        value, slope = values[t0:t1], slopes[t0:t1]
        filled, room = 0, min(left, GATHERED)
        gathered = buffer[: dim * room].reshape(dim, room)
        for pair in range(starts[a], starts[a + 1]):
            b = pairs[pair, 1]
            half = 0.0
            if b < 0:
                half = place(boxes, ~b, cube, other)
                at, stop = 0, len(grid)
            else:
                at, stop = boxes[b, S0], boxes[b, S1]
            while at < stop:
                size = min(stop - at, room - filled)
                for axis in range(dim):
                    middle = centre[3 - dim + axis]
                    if b < 0:
                        middle -= other[3 - dim + axis]
                        for j in range(size):
                            gathered[axis, filled + j] = real(half * grid[at + j, axis] - middle)
                    else:
                        for j in range(size):
                            gathered[axis, filled + j] = real(y[at + j, axis] - middle)
                for j in range(size):
                    w[filled + j] = real(charges[seats[~b], at + j]) if b < 0 else weights[at + j]
                at += size
                filled += size
                if filled == room:
                    direct(profile, rows, gathered, w[:filled], value, slope, axes)
                    left -= filled
                    filled, room = 0, min(left, GATHERED)
                    gathered = buffer[: dim * room].reshape(dim, room)


@jit
@no_type_check
def enter(profile, boxes, pairs, points, weights, cube, grid, seats, potentials):
    """Add the sums over points of boxes at the nodes of boxes that they meet, in float64, to `potentials` [rows, nodes]."""
    dim = points.shape[1]
    centre, moved, w, r2 = np.zeros(3), np.zeros((dim, SIDE)), np.zeros(SIDE), np.zeros(SIDE)
    for pair in range(len(pairs)):
        a, b = pairs[pair, 0], pairs[pair, 1]
        half = place(boxes, a, cube, centre)
        for start in range(boxes[b, S0], boxes[b, S1], SIDE):
            count = min(SIDE, boxes[b, S1] - start)
            for j in range(SIDE):  # what is left of the last points has weight 0
                w[j] = weights[start + j] if j < count else 0.0
            for axis in range(dim):
                for j in range(count):
                    moved[axis, j] = points[start + j, axis] - centre[3 - dim + axis]
            for i in range(len(grid)):
                for j in range(SIDE):
                    r2[j] = 0.0
                for axis in range(dim):
                    at = half * grid[i, axis]
                    for j in range(SIDE):
                        r2[j] += (moved[axis, j] - at) * (moved[axis, j] - at)
                total = 0.0
                for j in range(SIDE):
                    value, _ = numba_sums.evaluate(r2[j], profile)
                    total += w[j] * value
                potentials[seats[a], i] += total
