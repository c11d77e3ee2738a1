"""Gaussian sums in up to three dimensions on a grid: spread by B-splines, transform, multiply, transform back, interpolate.

With h the spacing, b the bandwidth and B the centred B-spline of order p (p nodes wide), the weights are spread to nodes by B,
and the potential on the nodes is a product in Fourier space with

    exp(-b^2 |k|^2 / 2) / prod_a sinc(k_a h / 2 pi)^(2 p),

which takes back both smoothings by B (particle-mesh, Hockney and Eastwood 1988, chapter 5; Essmann et al. 1995). Slopes are
products with i k. `error` bounds what the grid costs; `spacing` picks h by it.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: Orders of splines: cubic ones for ordinary tolerances, higher ones for tight tolerances.
ORDERS = (4, 6, 8)
#: Spacings in bandwidths that are looked at, from coarse to fine.
SPACINGS = tuple(2.0 ** (-k / 8) for k in range(4, 57))
#: Whether loops compiled by numba spread and interpolate on the CPU; plain torch does on other devices.
COMPILED = True
#: Points that plain torch spreads at a time.
BLOCK = 2**16
#: Points that are summed on nodes in float32 at a time: at least, and for each node.
LEAST_PART, PER_NODE = 2**14, 4


@functools.cache
def error(order: int, spacing: float, dim: int) -> tuple[float, float]:
    """Bound the error of a grid on the kernel in units of k(0), and on its gradient in units of k(0) / b, for any two points.

    `spacing` is h / b. A mode xi = b k, of weight exp(-xi^2 / 2), meets its aliases xi + 2 pi m b / h with the ratio
    (xi / (xi + 2 pi m b / h))^p at either smoothing; modes beyond pi b / h are lost.
    """
    end = math.pi / spacing
    xi = (np.arange(4000) + 0.5) * (end / 4000)
    weight = np.exp(-(xi**2) / 2) * (2 / math.sqrt(2 * math.pi)) * (end / 4000)
    ratio = sum((xi / np.abs(xi + 2 * m * end)) ** order for m in range(-4, 5) if m != 0)
    alias = (1 + ratio) ** 2 - 1
    lost = math.erfc(end / math.sqrt(2))
    value = float(weight @ alias) + lost
    slope = float((weight * xi) @ alias) + 2 / math.sqrt(2 * math.pi) * math.exp(-(end**2) / 2)
    others = (1 + value) ** (dim - 1)
    mean = 2 / math.sqrt(2 * math.pi)  # of |xi|
    return others * (1 + value) - 1, others * slope + mean * (others - 1)


def spacing(order: int, dim: int, value: float, slope: float) -> float | None:
    """Return the widest spacing h / b whose bounds are at most those, or None."""
    for h in SPACINGS:
        bounds = error(order, h, dim)
        if bounds[0] <= value and bounds[1] <= slope:
            return h
    return None


@dataclass(frozen=True)
class Grid:
    """A periodic grid around points, wide enough that they do not meet their images.

    Attributes:
        low: the first node, [d] in float64.
        spacing: h.
        sizes: nodes along each axis.
        order: p of the splines.
        bandwidth: b.
        dtype: of the nodes.
    """

    low: tuple[float, ...]
    spacing: float
    sizes: tuple[int, ...]
    order: int
    bandwidth: float
    dtype: torch.dtype

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return math.prod(self.sizes)

    def sums(self, x: Tensor, y: Tensor, weights: Tensor, *, values: bool, slopes: bool) -> Tensor:
        """Return sums over y [m, d] at x [n, d]: of the Gaussian if `values`, of it times x - y if `slopes`, [c, n]."""
        return self.interpolate(self.fields(self.spread(y, weights), values=values, slopes=slopes), x)

    def fields(self, nodes: Tensor, *, values: bool, slopes: bool) -> Tensor:
        """Return the sums on the nodes, [c, *sizes], of the weights on them."""
        spectrum = torch.fft.rfftn(nodes) * self.factor(nodes.device)
        channels = ([None] if values else []) + (list(range(len(self.sizes))) if slopes else [])
        fields = spectrum.new_empty((len(channels), *self.sizes), dtype=self.dtype)
        for field, axis in zip(fields, channels, strict=True):
            mode = spectrum if axis is None else spectrum * self.derivative(axis, nodes.device)
            field.copy_(torch.fft.irfftn(mode, s=self.sizes))
        return fields

    def factor(self, device: torch.device) -> Tensor:
        """Return what the transform of the nodes is multiplied with, [*sizes, half of the last]."""
        total = torch.ones((), dtype=self.dtype, device=device)
        for axis in range(len(self.sizes)):
            angle = self._angles(axis, device)  # k h
            gaussian = torch.exp(-((angle * (self.bandwidth / self.spacing)) ** 2) / 2)
            gaussian *= math.sqrt(2 * math.pi) * self.bandwidth / self.spacing
            one = gaussian / torch.sinc(angle / (2 * math.pi)) ** (2 * self.order)
            total = total * one.to(self.dtype).reshape([-1 if a == axis else 1 for a in range(len(self.sizes))])
        return total

    def derivative(self, axis: int, device: torch.device) -> Tensor:
        """Return -b^2 i k along an axis, which turns the sums of k into those of k times x - y, 0 where k has no sign."""
        angle = self._angles(axis, device)
        angle[angle.abs() >= math.pi * (1 - 1e-9)] = 0
        moved = -(self.bandwidth**2) / self.spacing * angle
        shape = [-1 if a == axis else 1 for a in range(len(self.sizes))]
        return torch.complex(torch.zeros_like(moved), moved).to(_complex(self.dtype)).reshape(shape)

    def _angles(self, axis: int, device: torch.device) -> Tensor:
        """Return the wave numbers k h along an axis, in float64."""
        frequencies = torch.fft.rfftfreq if axis == len(self.sizes) - 1 else torch.fft.fftfreq
        return 2 * math.pi * frequencies(self.sizes[axis], dtype=torch.float64, device=device)

    def spread(self, y: Tensor, weights: Tensor) -> Tensor:
        """Return the weights on the nodes, [*sizes].

        In float32 a node that holds the shares of thousands of points rounds those of the next, all the same way where weights
        are equal: the error would grow with the number of points. Parts of the points are summed in float64.
        """
        part = max(LEAST_PART, PER_NODE * self.nodes)
        if len(y) <= part or self.dtype == torch.float64:
            return self._spread(y, weights)
        total = torch.zeros(self.sizes, dtype=torch.float64, device=y.device)
        for points, w in zip(y.split(part), weights.split(part), strict=True):
            total += self._spread(points, w)
        return total.to(self.dtype)

    def _spread(self, y: Tensor, weights: Tensor) -> Tensor:
        nodes = torch.zeros(self.sizes, dtype=self.dtype, device=y.device)
        if y.device.type == "cpu" and COMPILED:
            from mmdflow.ops import numba_grid

            spread, _ = numba_grid.loops(len(self.sizes), self.order)
            spread(y.numpy(), weights.numpy(), *self._numbers(), nodes.view(-1).numpy())
            return nodes
        for points, w in zip(y.split(BLOCK), weights.split(BLOCK), strict=True):
            index, shares = self._stencil(points)
            nodes.view(-1).index_add_(0, index.flatten(), (shares * w.to(self.dtype)).flatten())
        return nodes

    def interpolate(self, fields: Tensor, x: Tensor) -> Tensor:
        """Return fields [c, *sizes] at points [n, d], as [c, n]."""
        totals = fields.new_empty(len(fields), len(x))
        if x.device.type == "cpu" and COMPILED:
            from mmdflow.ops import numba_grid

            _, interpolate = numba_grid.loops(len(self.sizes), self.order)
            interpolate(x.numpy(), *self._numbers(), fields.view(len(fields), -1).numpy(), totals.numpy())
            return totals
        flat_fields = fields.reshape(len(fields), -1)
        for part, points in zip(totals.split(BLOCK, 1), x.split(BLOCK), strict=True):
            index, shares = self._stencil(points)
            for field, at in zip(flat_fields, part, strict=True):
                torch.sum(field[index] * shares, 0, out=at)
        return totals

    def _numbers(self) -> tuple[np.ndarray, float, np.ndarray, tuple[int, ...]]:
        """Return what the compiled loops take: the first node, 1 / h, the splines' coefficients, the sizes of three axes."""
        real = np.float32 if self.dtype == torch.float32 else np.float64
        sizes = (1,) * (3 - len(self.sizes)) + self.sizes
        return np.array(self.low), 1 / self.spacing, spline(self.order).astype(real), sizes

    def _stencil(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nodes around each point and its shares in them, [p^d, n]."""
        n, p = len(points), self.order
        index = torch.zeros(1, n, dtype=torch.long, device=points.device)
        shares = torch.ones(1, n, dtype=self.dtype, device=points.device)
        coefficients = torch.from_numpy(spline(p)).to(points.device)
        steps = torch.arange(p, device=points.device)[:, None]
        for axis, size in enumerate(self.sizes):
            place = (points[:, axis].double() - self.low[axis]) / self.spacing
            cell = place.floor()
            f = place - cell
            of_axis = torch.zeros(p, n, dtype=torch.float64, device=points.device)
            for row in coefficients.flip(0):
                of_axis = of_axis * f + row[:, None]
            nodes = cell.long() - (p // 2 - 1) + steps
            index = (index[:, None] * size + nodes[None]).reshape(-1, n)
            shares = (shares[:, None] * of_axis.to(self.dtype)[None]).reshape(-1, n)
        return index, shares


@dataclass(frozen=True)
class Box:
    """The least box around points: its lower corner and its extents, [d] each."""

    low: tuple[float, ...]
    extents: tuple[float, ...]

    @classmethod
    def of(cls, *clouds: Tensor) -> Box:
        """Return the box of clouds of points [n, d]."""
        ends = [[column.aminmax() for column in cloud.T] for cloud in clouds]
        lows = [min(float(low) for low, _ in axis) for axis in zip(*ends, strict=True)]
        highs = [max(float(high) for _, high in axis) for axis in zip(*ends, strict=True)]
        return cls(tuple(lows), tuple(high - low for low, high in zip(lows, highs, strict=True)))


def around(box: Box, bandwidth: float, ratio: float, order: int, tail: float, dtype: torch.dtype) -> Grid:
    """Return the grid of spacing h = ratio b that holds the box, and whose images of the kernel weigh less than `tail`."""
    h = ratio * bandwidth
    apart = max(bandwidth * math.sqrt(2 * math.log(8 * len(box.low) / tail)), (order + 2) * h)
    sizes = tuple(fft_size(math.ceil(min((extent + apart) / h, 2.0**40))) for extent in box.extents)
    first = tuple(start - (order // 2) * h for start in box.low)
    return Grid(first, h, sizes, order, bandwidth, dtype)


@functools.cache
def spline(order: int) -> np.ndarray:
    """Return the shares of the p nodes around a point as polynomials of its place f in [0, 1) in its cell.

    Row k holds the coefficients of f^k, [p, p] in float64 (de Boor's recurrence on uniform knots).
    """
    pieces = np.ones(
        (1, 1)
    )  # piece q of the spline of support [0, order] is a polynomial of f = x - q: rows f^k, columns q
    for p in range(2, order + 1):
        longer = np.zeros((p, p))
        for q in range(p):
            for piece, slope, constant in ((q, 1.0, q), (q - 1, -1.0, p - q)):
                if 0 <= piece < p - 1:
                    longer[: p - 1, q] += constant / (p - 1) * pieces[:, piece]
                    longer[1:, q] += slope / (p - 1) * pieces[:, piece]
        pieces = longer
    return np.ascontiguousarray(pieces[:, ::-1])


@functools.lru_cache(1024)
def fft_size(least: int) -> int:
    """Return the least even number of at least that, with no prime factor above 5: transforms of such sizes are quick."""
    best = 2 ** max(1, math.ceil(math.log2(least)))
    for threes, fives in itertools.product(range(12), range(8)):
        odd = 3**threes * 5**fives
        best = min(best, odd * 2 ** max(1, math.ceil(math.log2(max(1.0, least / odd)))))
    return best


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex64 if dtype == torch.float32 else torch.complex128
