"""Sums of any radial kernel in up to three dimensions by the fast multipole method: near points pair by pair, far ones by boxes.

A tree of boxes holds the points (Greengard and Rokhlin 1987; adaptive as in Carrier, Greengard and Rokhlin 1988): a box of more
than a few points has 2^d children, however dense they lie. Sources in a box are expanded in Chebyshev polynomials; between boxes
of one size that do not touch, expansions are moved by tables of the kernel (`chebyshev`), and they are handed from children to
parents and back. What is left, points in boxes that touch, is summed by the compiled loops of the exact sums. Where a small box
meets a large one that does not touch it, its expansion is summed as points, or the larger one's points enter its expansion.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdflow.kernels.profiles import Profile, Term
from mmdflow.ops import numba_tree, threads
from mmdflow.ops.chebyshev import Basis, basis, tables
from mmdflow.ops.numba_tree import CELL, CHILD, CHILDREN, COLUMNS, LEVEL, PLACE, S0, S1, T0, T1
from mmdflow.ops.spline_grid import Box

#: Levels of a tree at most, in each dimension: what a key of 63 bits, and the digits of float64, allow.
LEVELS = {1: 50, 2: 30, 3: 20}
#: Points that a box may hold without being split, for each polynomial of its expansion, and at least.
CAPACITY, LEAST_CAPACITY = {1: 4, 2: 3, 3: 4}, 40
#: Edges of the root are rounded up to powers of this, so that a box that follows its particles meets tables that are known.
STEP = 2**0.25
#: Pairs that a table moves at a time.
BLOCK = 1024
#: Tasks that the boxes of a level are shared out in at least.
TASKS = 8
#: Nanoseconds on one thread: of a pair of coefficients in a translation (twice that in float64), of a coefficient of a point, of
#: a point, of two boxes that meet, and of any sum.
MOVE, EXPAND, POINT, VISIT, START = 0.055, 0.6, 150.0, 100.0, 2.5e6


def least_cost(points: int) -> float:
    """Return the time that a tree over so many points takes at least, in nanoseconds."""
    return START + POINT * points


@dataclass(frozen=True)
class Tree:
    """Boxes over two clouds, and which of them meet.

    Attributes:
        degree: of the expansions.
        cube: the lower corner of the root, [3], and its edge.
        boxes: as `numba_tree` has them.
        x: the targets in the order of the boxes, [n, d].
        order_x: their indices, [n].
        y: the sources, [m, d].
        order_y: their indices, [m].
        far: pairs of boxes that meet by expansions, sorted by level and offset.
        near: pairs of a box of targets and of sources, or of ~a box with its expansion.
        local: pairs of a box of targets, into whose expansion go the points of a box.
        starts: where the pairs of each level and offset, and those of each box begin.
    """

    degree: int
    cube: tuple[np.ndarray, float]
    boxes: np.ndarray
    x: np.ndarray
    order_x: np.ndarray
    y: np.ndarray
    order_y: np.ndarray
    far: np.ndarray
    near: np.ndarray
    local: np.ndarray
    starts: tuple[np.ndarray, ...]

    @classmethod
    def over(cls, x: Tensor, y: Tensor, degree: int) -> Tree:
        """Return the tree over targets [n, d] and sources [m, d], all finite."""
        dim, box = x.shape[1], Box.of(x, y)
        extent = max(box.extents)
        bits = LEVELS[dim] if extent > 0 else 0
        width = STEP ** math.ceil(math.log(extent, STEP) + 1e-3) if extent > 0 else 1.0
        middle = np.array(box.low) + np.array(box.extents) / 2
        low = np.zeros(3)
        low[3 - dim :] = middle - width / 2
        of = basis(degree, dim)
        capacity = max(LEAST_CAPACITY, int(CAPACITY[dim] * len(of.powers)))
        sorted_keys, orders = [], []
        for points in (x, y):
            keys = numba_tree.keys(points.numpy(), low[3 - dim :], 2.0**bits / width, bits)
            order = np.argsort(keys)
            sorted_keys.append(keys[order])
            orders.append(order)
        boxes = _boxes(sorted_keys[0], sorted_keys[1], dim, bits, capacity)
        (far, near, local), starts = _pairs(boxes, of)
        sorted_x, sorted_y = (points.numpy()[order] for points, order in zip((x, y), orders, strict=True))
        return cls(degree, (low, width), boxes, sorted_x, orders[0], sorted_y, orders[1], far, near, local, starts)

    @property
    def basis(self) -> Basis:
        """The polynomials of the expansions."""
        return basis(self.degree, self.x.shape[1])

    def cost(self, pair: float, single: bool) -> float:
        """Return the time of the sums in nanoseconds, where a pair of points takes `pair`."""
        size, nodes, met = len(self.basis.powers), len(self.basis.grid), self.near[:, 1]
        targets, sources = (self.boxes[:, end] - self.boxes[:, start] for start, end in ((T0, T1), (S0, S1)))
        pairs = float((targets[self.near[:, 0]] * np.where(met < 0, nodes, sources[met])).sum())
        pairs += 3.0 * nodes * float(sources[self.local[:, 1]].sum())  # in float64
        moves = MOVE * (1 if single else 2) * size**2 * len(self.far)
        points = (4 * len(self.x) + len(self.y)) * EXPAND * size + least_cost(len(self.x) + len(self.y))
        return pair * pairs + moves + points + VISIT * (len(self.far) + len(self.near))

    def sums(
        self,
        term: Term,
        weights: Tensor,
        values: Tensor | None,
        slopes: Tensor | None,
        *,
        negligible: tuple[float, float] = (0.0, 0.0),
        single: bool = False,
    ) -> None:
        """Add sum_j weights_j value(|x_i - y_j|^2) to `values` [n], and with slope and x_i - y_j to `slopes` [n, d], in float64.

        Args:
            term: of the kernel; its factors are left out.
            weights: of the sources, [m].
            values: None where only slopes are wanted.
            slopes: None where only values are wanted.
            negligible: a value, and a slope times a distance, that may be left out of far pairs.
            single: whether to move expansions in float32.
        """
        w = weights.numpy()[self.order_y]
        moments = torch.zeros(len(self.boxes), len(self.basis.powers), dtype=torch.float64)
        numba_tree.expand(self.boxes, self.y, w, self.cube, self.basis.rows, moments.numpy())
        self._ascend(moments)
        value, slope = np.zeros(len(self.x)), np.zeros(self.x.shape)
        self._near(term.profile, moments, w, value, slope)
        far = [(term.potential, value, slope)]
        if values is not None and term.potential != term.profile:
            far = [(term.profile, value, np.zeros_like(slope))]
            far += [] if slopes is None else [(term.potential, np.zeros_like(value), slope)]
        for profile, *totals in far:
            locals_ = self._locals(profile, moments, w, negligible, single).numpy()
            self._evaluate(locals_, term.steepness, *totals)
        order = torch.from_numpy(self.order_x)
        for total, part in ((values, value), (slopes, slope)):
            if total is not None:
                total[order] += torch.from_numpy(part)

    def _locals(
        self, profile: Profile, moments: Tensor, weights: np.ndarray, negligible: tuple[float, float], single: bool
    ) -> Tensor:
        """Return the expansions of all boxes around their targets, of what far sources give."""
        locals_ = torch.zeros_like(moments)
        self._translate(profile, moments.numpy(), locals_.numpy(), negligible, single)
        if len(self.local):
            entered, seats = self._seats(self.local[:, 0])
            potentials = np.zeros((len(entered), len(self.basis.grid)))
            sources, to = (self.y, weights, self.cube, self.basis.grid), (seats, potentials)
            numba_tree.enter(_typed(profile, np.float64), self.boxes, self.local, *sources, *to)
            locals_[entered] += torch.from_numpy(potentials) @ torch.from_numpy(self.basis.transform.T)
        self._descend(locals_)
        return locals_

    def _evaluate(self, locals_: np.ndarray, steepness: float, value: np.ndarray, slope: np.ndarray) -> None:
        """Add expansions at the targets, and their gradients over the steepness."""
        rows = self.basis.rows
        self._over_boxes(
            lambda span: numba_tree.evaluate(
                self.boxes, span, self.x, self.cube, rows, locals_, steepness, value, slope
            )
        )

    def _near(
        self, profile: Profile, moments: Tensor, weights: np.ndarray, value: np.ndarray, slope: np.ndarray
    ) -> None:
        """Add the sums over near points and over the nodes of expansions."""
        charged, seats = self._seats(~self.near[self.near[:, 1] < 0, 1])
        nodes = self.basis.grid, (moments[charged] @ torch.from_numpy(self.basis.transform)).numpy(), seats
        typed, met, axes = _typed(profile, self.x.dtype.type), (self.near, self.starts[1]), (0,) * self.x.shape[1]
        points = self.x, self.y, weights

        self._over_boxes(
            lambda span: numba_tree.near(typed, self.boxes, span, met, points, self.cube, nodes, axes, value, slope)
        )

    def _over_boxes(self, task: Callable[[tuple[int, int]], None]) -> None:
        """Call the task on the first box and the one after the last of parts of levels, whose boxes have no targets in common."""
        for level in self._levels():
            of_part = functools.partial(_on_boxes, task, int(level[0]))
            threads.over_rows(of_part, len(level), max(1, len(level) // TASKS))

    def _seats(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes that are among those, and of every box of the tree its place there."""
        which, seats = np.unique(boxes), np.zeros(len(self.boxes), np.int64)
        seats[which] = np.arange(len(which))
        return which, seats

    def _levels(self) -> list[np.ndarray]:
        """Return the boxes of each level."""
        level = self.boxes[:, LEVEL]
        ends = np.searchsorted(level, np.arange(level[-1] + 2))
        return [np.arange(start, stop) for start, stop in itertools.pairwise(ends)]

    def _families(self, level: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
        """Return for each place in a parent the boxes of a level there, their parents, and a parent's polynomials in theirs."""
        parents = np.concatenate([[0], np.repeat(np.arange(len(self.boxes)), self.boxes[:, CHILDREN])])
        for place, half in enumerate(self.basis.halves):
            children = level[self.boxes[level, PLACE] == place]
            yield children, parents[children], torch.from_numpy(half)

    def _ascend(self, moments: Tensor) -> None:
        """Add the expansions of children to their parents'."""
        for level in self._levels()[:0:-1]:
            for children, parents, half in self._families(level):
                moments[parents] += moments[children] @ half.T

    def _descend(self, locals_: Tensor) -> None:
        """Add the expansions of parents to their children's."""
        for level in self._levels()[1:]:
            for children, parents, half in self._families(level):
                locals_[children] += locals_[parents] @ half

    def _translate(
        self, profile: Profile, moments: np.ndarray, locals_: np.ndarray, negligible: tuple[float, float], single: bool
    ) -> None:
        """Add expansions of sources to those of the targets that they meet, a block of pairs of one table at a time."""
        of, dtype = self.basis, torch.float32 if single else torch.float64
        slots = len(of.offsets)
        first, second = (torch.empty(BLOCK, len(of.powers), dtype=dtype) for _ in range(2))
        for level in range(len(self.starts[0]) // slots):
            starts = self.starts[0][level * slots : (level + 1) * slots + 1]
            if starts[0] == starts[-1]:
                continue
            known = tables(profile, self.cube[1] * 0.5**level, self.degree, self.x.shape[1])
            heard = (known.value > negligible[0]) | (known.slope > negligible[1])
            for slot in np.flatnonzero(heard & (np.diff(starts) > 0)):
                table, pairs = known.between[slot].to(dtype), self.far[starts[slot] : starts[slot + 1]]
                for rows in threads.parts(len(pairs), BLOCK):
                    part = pairs[rows]
                    turned, moved = first[: len(part)], second[: len(part)]
                    numba_tree.turn(part, of.moves, of.signs, moments, turned.numpy())
                    torch.mm(turned, table, out=moved)
                    numba_tree.turn_back(
                        part, of.moves, of.signs, moved.numpy(), known.constant[slot], moments, locals_
                    )


def _on_boxes(task: Callable[[tuple[int, int]], None], first: int, part: slice) -> None:
    task((first + part.start, first + part.stop))


def _boxes(targets: np.ndarray, sources: np.ndarray, dim: int, bits: int, capacity: int) -> np.ndarray:
    """Return the boxes over sorted keys; those of more points than `capacity` have children, as deep as keys go."""
    level, found = np.zeros((1, COLUMNS), np.int64), []
    level[0, T1], level[0, S1] = len(targets), len(sources)
    prefixes, count = np.zeros(1, np.int64), 1
    places = np.arange(1 << dim)
    turned = (places[:, None] >> np.array([2, 1, 0])) & 1  # the half of each axis
    for depth in range(bits + 1):
        found.append(level)
        points = level[:, T1] - level[:, T0] + level[:, S1] - level[:, S0]
        split = np.flatnonzero((points > capacity) & (depth < bits))
        if len(split) == 0:
            break
        below = (prefixes[split, None] << dim) + places  # [parents, places]
        children = np.zeros((*below.shape, COLUMNS), np.int64)
        children[..., LEVEL], children[..., PLACE] = depth + 1, places
        children[..., CELL:] = 2 * level[split, None, CELL:] + turned
        for keys, start, stop in ((targets, T0, T1), (sources, S0, S1)):
            ends = np.searchsorted(keys, (below + 1) << ((bits - depth - 1) * dim))
            children[..., start], children[..., stop] = np.c_[level[split, start], ends[:, :-1]], ends
        held = (children[..., T1] > children[..., T0]) | (children[..., S1] > children[..., S0])
        level[split, CHILDREN] = held.sum(1)
        level[split, CHILD] = count + np.cumsum(level[split, CHILDREN]) - level[split, CHILDREN]
        level, prefixes = children[held], below[held]
        count += len(level)
    return np.concatenate(found)


def _pairs(boxes: np.ndarray, of: Basis) -> tuple[list[np.ndarray], tuple[np.ndarray, ...]]:
    """Return `far`, `near` and `local` of a tree, and `starts`: the pairs are counted first, and then written down."""
    levels = int(boxes[-1, LEVEL]) + 1
    counts = tuple(np.zeros(size, np.int64) for size in (levels * len(of.offsets), len(boxes), len(boxes)))
    none = [np.empty((0, columns), np.int64) for columns in (3, 2, 2)]
    numba_tree.walk(boxes, len(of.grid), of.slots, len(of.offsets), counts, *none)
    starts = tuple(np.concatenate([[0], np.cumsum(count)]) for count in counts)
    pairs = [np.empty((start[-1], columns), np.int64) for start, columns in zip(starts, (3, 2, 2), strict=True)]
    numba_tree.walk(
        boxes, len(of.grid), of.slots, len(of.offsets), tuple(start[:-1].copy() for start in starts), *pairs
    )
    return pairs, starts


def _typed(profile: Profile, real: Any) -> Profile:
    """Return the profile in numbers of that type, which decides the type of the arithmetic."""
    return type(profile)(*(real(number) for number in profile))
