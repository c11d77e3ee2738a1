"""Statistics of the MMD tests, the observed one and resampled ones together: from Gram matrices, sums, pairs or random features.

Each takes a kernel, both samples and draws, whose first column is the observed one, and returns the statistics [1 + resamplings]
and the largest value of the kernel, which is the measure of rounding errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from mmdflow import ops
from mmdflow._precision import widened
from mmdflow._tensors import device_of, flat
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel, Mixture, Radial
from mmdflow.kernels.base import keeps_up

#: Rows whose features are held at a time.
ROWS = 4096
#: Rows and columns of the Gram matrices whose diagonals are the values of pairs, of kernels that are not radial.
PAIRS = 64


#: (n, m, resamplings, generator) -> what a statistic is resampled by, in bytes; the first column is the observed one.
Draw: TypeAlias = Callable[[int, int, int, torch.Generator | None], Tensor]


#: (kernel, x, y, draws) -> statistics, [columns of draws] in float64, and the largest |k|.
Statistic: TypeAlias = Callable[[Kernel, Tensor, Tensor, Tensor], tuple[Tensor, float]]


@dataclass(frozen=True)
class Resampling:
    """A statistic of two samples beside its resamplings.

    Attributes:
        draw: draws them.
        statistic: of a kernel and both samples.
        count: of resamplings.
        generator: of the draws.
    """

    draw: Draw
    statistic: Statistic
    count: int
    generator: torch.Generator | None = None

    def tails(self, kernels: Sequence[Kernel], blocks: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the statistics of every kernel and their upper tails, [kernels, 1 + count], the observed one first.

        Args:
            kernels: each has the same resamplings.
            blocks: both samples in parts; the statistic is the mean of theirs.
        """
        sums: list[Tensor | float] = [0.0] * len(kernels)
        largest = [0.0] * len(kernels)
        for x, y in blocks:
            draws = self.draw(len(x), len(y), self.count, self.generator).to(x.device)
            for i, kernel in enumerate(kernels):
                values, most = self.statistic(kernel, x, y, draws)
                sums[i], largest[i] = sums[i] + values, max(largest[i], most)
        rows = [torch.as_tensor(total) / len(blocks) for total in sums]
        tails = [upper_tail(row, 1e-12 * most) for row, most in zip(rows, largest, strict=True)]
        return torch.stack(rows), torch.stack(tails)


def upper_tail(values: Tensor, slack: float) -> Tensor:
    """Return for each value the share of values that are at least as large; those within slack count as ties."""
    ordered = values.sort().values
    return 1 - torch.searchsorted(ordered, values - slack).double() / len(values)


def draw_labels(n: int, m: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Mark the points that play x, [n + m, 1 + count] in bytes."""
    device = device_of(generator)
    first = torch.zeros(n + m, count + 1, dtype=torch.uint8, device=device)
    first[:n, 0] = 1
    for column in range(1, count + 1):
        first[torch.randperm(n + m, generator=generator, device=device)[:n], column] = 1
    return first


def draw_signs(n: int, m: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw signs of the pairs, [n, 1 + count] in bytes; n = m."""
    signs = torch.randint(2, (n, count + 1), generator=generator, device=device_of(generator), dtype=torch.int8)
    signs.mul_(2).sub_(1)
    signs[:, 0] = 1
    return signs


def draw_signs_of_halves(n: int, m: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw signs of pairs of pairs, [min(n, m) // 2, 1 + count] in bytes."""
    return draw_signs(min(n, m) // 2, m, count, generator)


def labels_by_gram(kernel: Kernel, x: Tensor, y: Tensor, first: Tensor) -> tuple[Tensor, float]:
    """The unbiased statistic under labels, in O((n + m)^2)."""
    gram, n, m = _gram(kernel, x, y), len(x), len(y)
    first = first.to(gram)
    product = gram @ first
    within_x = (first * product).sum(0)
    across = product.sum(0) - within_x
    within_y = gram.sum() - within_x - 2 * across
    statistics = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)
    return statistics, float(gram.abs().max())


def signs_by_gram(kernel: Kernel, x: Tensor, y: Tensor, signs: Tensor) -> tuple[Tensor, float]:
    """The mean of s_i s_j h_ij over i != j, h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j), in O(n^2)."""
    gram, n = _gram(kernel, x, y), len(x)
    h = gram[:n, :n] + gram[n:, n:] - gram[:n, n:] - gram[n:, :n]
    h.fill_diagonal_(0)
    signs = signs.to(gram)
    return (signs * (h @ signs)).sum(0) / (n * (n - 1)), float(gram.abs().max())


def _gram(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Return the Gram matrix of both samples in float64, with a diagonal of 0."""
    both = _points(kernel, x, y)
    with torch.no_grad():
        gram = kernel(both, both).double()
    return gram.fill_diagonal_(0)


def _points(kernel: Kernel, *clouds: Tensor) -> Tensor:
    """Return clouds together, as the kernel takes them best."""
    both = torch.cat(clouds)
    return widened(both) if kernel.any_dtype else both


def labels_by_sums(kernel: Kernel, x: Tensor, y: Tensor, first: Tensor) -> tuple[Tensor, float]:
    """The unbiased statistic under labels by a sum of the kernel a column, in as little memory as points and labels take.

    With signed weights a, 1/n on x and -1/m on y, a'Ka is the biased one; nothing cancels in it. What makes it unbiased is
    O(1 / n) of it: the diagonal, and the sums within x and within y, which come from Ka and K1.
    """
    both, n, m = _points(kernel, x, y), len(x), len(y)
    with torch.no_grad():
        diagonal = kernel.diag(both).double()
        of_ones = _sum(kernel, both, torch.ones_like(diagonal))
        statistics = []
        for column in first.T:
            of_x = column.to(diagonal)
            of_y = 1 - of_x
            signed = of_x / n - of_y / m
            product = _sum(kernel, both, signed)
            of_first = (product + of_ones / m) * (
                n * m / (n + m)
            )  # K of_x, since of_x = (signed + 1 / m) n m / (n + m)
            on_x, on_y = of_x @ diagonal, of_y @ diagonal
            within_x, within_y = of_x @ of_first - on_x, of_y @ (of_ones - of_first) - on_y
            value = signed @ product - on_x / n**2 - on_y / m**2
            statistics.append(value + within_x / (n**2 * (n - 1)) + within_y / (m**2 * (m - 1)))
    return torch.stack(statistics), float(diagonal.abs().max())


def signs_by_sums(kernel: Kernel, x: Tensor, y: Tensor, signs: Tensor) -> tuple[Tensor, float]:
    """The mean of s_i s_j h_ij over i != j by a sum of the kernel a column."""
    both, n = _points(kernel, x, y), len(x)
    with torch.no_grad():
        diagonal = kernel.diag(both).double()
        alone = diagonal.sum() - 2 * of_pairs(kernel, both[:n], both[n:]).sum()
        statistics = []
        for column in signs.T:
            signed = torch.cat([column, -column]).to(diagonal)
            statistics.append((signed @ _sum(kernel, both, signed) - alone) / (n * (n - 1)))
    return torch.stack(statistics), float(diagonal.abs().max())


def _sum(kernel: Kernel, points: Tensor, weights: Tensor) -> Tensor:
    return ops.kernel_sum(kernel, points, points, weights.to(widened(points))).double()


def signs_by_pairs(kernel: Kernel, x: Tensor, y: Tensor, signs: Tensor) -> tuple[Tensor, float]:
    """The linear-time statistic, the mean of s_i h(z_2i-1, z_2i) over pairs of pairs z = (x, y) that have nothing in common.

    Under equal laws h changes its sign when x and y change places in one of the two, so that signs are resamplings.
    """
    count = len(signs)
    p, q, s, t = (_points(kernel, part) for part in (x[:count], x[count : 2 * count], y[:count], y[count : 2 * count]))
    with torch.no_grad():
        values = [of_pairs(kernel, a, b).double() for a, b in ((p, q), (s, t), (p, t), (q, s))]
    h = values[0] + values[1] - values[2] - values[3]
    statistics = torch.cat([h @ part.to(h) for part in signs.split(64, 1)]) / count
    return statistics, float(torch.stack(values).abs().max())


def of_pairs(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Return k(x_i, y_i), [n], in O(n)."""
    parts = _parts(kernel)
    if parts[0][1] is not kernel:
        return torch.stack([weight * of_pairs(member, x, y) for weight, member in parts]).sum(0)
    if isinstance(kernel, Radial) and keeps_up(kernel, "profile", "forward"):
        apart = flat(x) - flat(y)
        return kernel(apart, torch.zeros_like(apart[:1]))[:, 0]
    return torch.cat([kernel(a, b).diagonal() for a, b in zip(x.split(PAIRS), y.split(PAIRS), strict=True)])


class LabelsByFeatures:
    """The unbiased statistic under labels of random Fourier features, k(x, y) as the mean of cos<w_l, x - y>: O((n + m) L).

    The frequencies w are those of the kernel's spectral measure (Rahimi, Recht 2007; Zhao, Meng 2015), drawn once a kernel.

    Args:
        count: L.
        generator: draws them.
    """

    def __init__(self, count: int, generator: torch.Generator | None) -> None:
        self.count, self.generator = count, generator

    def __call__(self, kernel: Kernel, x: Tensor, y: Tensor, first: Tensor) -> tuple[Tensor, float]:
        """Return the statistics and k(0)."""
        n, m, (height, frequencies) = len(x), len(y), self._frequencies(kernel, x)
        of_x = frequencies.new_zeros(2 * self.count, first.shape[1])
        total = frequencies.new_zeros(2 * self.count, 1)
        for points, labels in zip(flat(torch.cat([x, y])).split(ROWS), first.split(ROWS), strict=True):
            phase = points.double() @ frequencies
            features = torch.cat([phase.cos(), phase.sin()], 1) * math.sqrt(height / self.count)
            of_x += features.T @ labels.to(features)
            total += features.sum(0)[:, None]
        of_y = total - of_x
        within_x, within_y = of_x.square().sum(0) - n * height, of_y.square().sum(0) - m * height
        value = (of_x / n - of_y / m).square().sum(0) - height / n - height / m
        return value + within_x / (n**2 * (n - 1)) + within_y / (m**2 * (m - 1)), height

    def _frequencies(self, kernel: Kernel, x: Tensor) -> tuple[float, Tensor]:
        """Return k(0) and frequencies [d, L] in float64."""
        heights, variances, device = [], [], device_of(self.generator)
        for weight, member in _parts(kernel):
            if not isinstance(member, Radial) or not keeps_up(member, "spectral_variances", "profile", "forward"):
                raise InputError(
                    f"method = 'random-features' with kernel = {type(member).__name__}: must be Gaussian, Matern 3/2 or 5/2, "
                    f"InverseMultiquadric, RationalQuadratic or a mixture of these"
                )
            heights.append(weight * float(member.diag(x[:1])[0]))
            variances.append(member.spectral_variances(self.count, self.generator).to(device))
        shares = torch.tensor(heights, dtype=torch.float64, device=device)
        member_of = torch.multinomial(shares, self.count, replacement=True, generator=self.generator)
        variance = torch.stack(variances).gather(0, member_of[None])[0]
        shape = flat(x).shape[1], self.count
        normal = torch.randn(shape, dtype=torch.float64, generator=self.generator, device=device)
        return sum(heights), (normal * variance.sqrt()).to(x.device)


def _parts(kernel: Kernel, weight: float = 1.0) -> list[tuple[float, Kernel]]:
    """Return the kernels that a mixture, or one of mixtures, is made of, with their weights."""
    if not (isinstance(kernel, Mixture) and keeps_up(kernel, "members", "forward")):
        return [(weight, kernel)]
    members = zip(kernel.weights, kernel.members(), strict=True)
    return [part for own, member in members for part in _parts(member, weight * own)]
