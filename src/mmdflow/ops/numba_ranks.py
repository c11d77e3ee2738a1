"""Sums of -|s - t| and their slopes along rows of projections, by ranks, compiled by numba for float32.

A row holds the projections of the points of both measures. Each projection gets a cell of a grid of 2^24 between the ends of the
row, which is as fine as rounding; the cells are sorted with two radix passes of 12 bits, and points of the same or neighbouring
cells are ties. Where a few points lie far out, the grid is that of t / (scale + |t|), fine in the bulk and coarse far out.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np

from mmdflow.ops.numba_sums import compiled, use_widest_vectors

#: NaN is not expected: the caller looks for it.
jit = compiled({"contract", "nsz", "arcp", "nnan"})

#: Bits of a radix digit, and its values.
DIGIT = 12
VALUES = 2**DIGIT
#: Where the cell starts in an entry of 64 bits: the index takes 32, 7 more bits of the place on the grid are not looked at.
CELL = 39
#: Points of a row beyond which only those of the same cell are ties: there neighbouring cells are full as well.
DENSE = 2**20
#: Places that are computed at a time.
CHUNK = 512
#: How far out the farthest point may be, in scales, before the grid is compressed there.
FAR = 16

_i4, _u8, _f4 = np.int32, np.uint64, np.float32
_INDEX = _u8(2**32 - 1)


@jit
@no_type_check
def order(row, radius, scale, entries, spare, counts):
    """Fill `entries` [N] with (cell, index) of the row [N] in the order of the cells; |row| <= radius, usually about `scale`."""
    size = len(row)
    first, second = counts[0], counts[1]
    first[:] = 0
    second[:] = 0
    mask, place = _i4(VALUES - 1), _i4(CELL - 32)
    # keys lie between 0 and 2^31, beyond the radius at the ends
    zero, top, far, end = _i4(0), _f4(2147483520.0), _f4(1.0001), radius * _f4(1.0001)
    if radius <= _f4(FAR) * scale:
        factor = _f4(2.0**30) / end
        for i in range(size):
            key = max(_i4(min((row[i] + end) * factor, top)), zero)
            entries[i] = (_u8(key) << _u8(32)) | _u8(i)
            first[(key >> place) & mask] += _i4(1)
            second[key >> _i4(place + DIGIT)] += _i4(1)
    else:
        for i in range(size):
            key = max(_i4(min((row[i] / (scale + abs(row[i])) + far) * _f4(2.0**30 / 1.0001), top)), zero)
            entries[i] = (_u8(key) << _u8(32)) | _u8(i)
            first[(key >> place) & mask] += _i4(1)
            second[key >> _i4(place + DIGIT)] += _i4(1)
    start_first = start_second = _i4(0)
    for k in range(VALUES):
        first[k], start_first = start_first, _i4(start_first + first[k])
        second[k], start_second = start_second, _i4(start_second + second[k])
    for i in range(size):
        entry = entries[i]
        digit = np.int64((entry >> _u8(CELL)) & _u8(VALUES - 1))
        spare[first[digit]] = entry
        first[digit] += _i4(1)
    for i in range(size):
        entry = spare[i]
        digit = np.int64(entry >> _u8(CELL + DIGIT))
        entries[second[digit]] = entry
        second[digit] += _i4(1)


@jit
@no_type_check
def slopes(block, split, weights, radius, scale, work):
    """Replace the first `split` projections of each row, [P, N], by slopes: sum_j w_j sign(t_j - t_i) over all points.

    Ties are left out. `weights` [N] are in float64; None stands for 1 / split of the first points and -1 / (N - split) of the
    others. What becomes of the other entries is arbitrary. `work` [2, N] of uint64 is overwritten (new memory is slow).
    """
    size = block.shape[1]
    entries, spare = work[0], work[1]
    counts = np.empty((2, VALUES), np.int32)
    reach = _u8(size <= DENSE)
    total = up = down = 0.0
    if weights is None:
        up, down = 1.0 / split, -1.0 / (size - split)
    else:
        for i in range(size):
            total += weights[i]
    for p in range(block.shape[0]):
        row = block[p]
        order(row, radius, scale, entries, spare, counts)
        low = high = 0
        below = not_above = 0.0  # the mass of the points before `low` and `high`
        for i in range(size):
            cell = entries[i] >> _u8(CELL)
            while (entries[low] >> _u8(CELL)) + reach < cell:
                index = np.int64(entries[low] & _INDEX)
                below += weights[index] if weights is not None else (up if index < split else down)
                low += 1
            while high < size and (entries[high] >> _u8(CELL)) <= cell + reach:
                index = np.int64(entries[high] & _INDEX)
                not_above += weights[index] if weights is not None else (up if index < split else down)
                high += 1
            row[min(np.int64(entries[i] & _INDEX), split)] = total - below - not_above


@jit
@no_type_check
def potentials(block, weights, radius, scale, totals, work):
    """Add sum_j -w_j |t_i - t_j| over the points of each row of `block` [P, N] to `totals` [N]; weights [N], in float64."""
    size = block.shape[1]
    entries, spare = work[0], work[1]
    counts = np.empty((2, VALUES), np.int32)
    mass = 0.0
    for i in range(size):
        mass += weights[i]
    for p in range(block.shape[0]):
        row = block[p]
        order(row, radius, scale, entries, spare, counts)
        moment = 0.0
        for i in range(size):
            moment += weights[i] * row[i]
        mass_below = moment_below = 0.0
        for i in range(size):
            index = np.int64(entries[i] & _INDEX)
            t = np.float64(row[index])
            totals[index] -= t * (2.0 * mass_below - mass) + moment - 2.0 * moment_below
            mass_below += weights[index]
            moment_below += weights[index] * t


@jit
@no_type_check
def binned_slopes(block, split, weights, limit, bins, tolerance, bounds):
    """As `slopes`, by interpolation in the distribution function of `bins` equal bins of [-limit, limit].

    What lies beyond is put at the ends. A slope is off by no more than twice the mass, of either sign, in its bin; the largest
    such value of each row goes to `bounds` [P]. Where it exceeds `tolerance` the row is left as it is, for `slopes`.
    """
    use_widest_vectors()
    size = block.shape[1]
    signed, mass = np.empty(bins), np.empty(bins)
    first, others = np.empty(bins, np.int32), np.empty(bins, np.int32)
    left, step = np.empty(bins, np.float32), np.empty(bins, np.float32)
    places = np.empty(CHUNK, np.int32)
    factor = _f4(bins / (2.0 * limit))
    middle, last = _f4(bins / 2), _i4(bins - 1)
    zero, top = _f4(0), _f4(bins)
    by_first, by_others = _f4(2 / split), _f4(2 / (size - split))  # with `weights` None the total is 0
    for p in range(block.shape[0]):
        row = block[p]
        if weights is None:
            first[:] = 0
            others[:] = 0
        else:
            signed[:] = 0
            mass[:] = 0
        for start in range(0, size, CHUNK):
            length = min(CHUNK, size - start)
            piece = row[start : start + length]
            for j in range(length):
                place = piece[j] * factor + middle
                place = zero if place < zero else (top if place > top else place)
                places[j] = min(_i4(place), last)
            if weights is None:
                turn = max(0, min(length, split - start))
                for j in range(turn):
                    first[places[j]] += _i4(1)
                for j in range(turn, length):
                    others[places[j]] += _i4(1)
            else:
                for j in range(length):
                    weight = weights[start + j]
                    signed[places[j]] += weight
                    mass[places[j]] += abs(weight)
        bound = 0.0
        if weights is None:
            of_first = of_others = _i4(0)
            for k in range(bins):
                left[k] = by_others * _f4(of_others) - by_first * _f4(of_first)
                of_first, of_others = _i4(of_first + first[k]), _i4(of_others + others[k])
            for k in range(bins):
                step[k] = by_others * _f4(others[k]) - by_first * _f4(first[k])
                bound = max(bound, by_others * _f4(others[k]) + by_first * _f4(first[k]))
        else:
            below = total = 0.0
            for k in range(bins):
                total += signed[k]
                bound = max(bound, 2.0 * mass[k])
            for k in range(bins):
                left[k] = total - 2.0 * below
                step[k] = -2.0 * signed[k]
                below += signed[k]
        bounds[p] = bound
        if bound > tolerance:
            continue
        for i in range(split):
            place = row[i] * factor + middle
            place = zero if place < zero else (top if place > top else place)
            k = min(_i4(place), last)
            row[i] = left[k] + (place - _f4(k)) * step[k]
