"""The MMD two-sample test (Gretton et al. 2012; Schrab et al. 2023), and the flow that stops when it accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow._precision import full_precision
from mmdflow._tensors import device_of, flat, memory_left
from mmdflow.errors import InputError
from mmdflow.kernels import Gaussian, Kernel, median_bandwidth, squared_distances
from mmdflow.metrics.resampling import (
    Draw,
    LabelsByFeatures,
    Resampling,
    Statistic,
    draw_labels,
    draw_signs,
    draw_signs_of_halves,
    labels_by_gram,
    labels_by_sums,
    signs_by_gram,
    signs_by_pairs,
    signs_by_sums,
)
from mmdflow.types import ArrayLike

#: Rows at most whose distances the bandwidth of tied data is taken from.
_BANDWIDTH_ROWS = 1000


@full_precision
def mmd_test(
    x: Float[Tensor, "n *event"] | ArrayLike,
    y: Float[Tensor, "m *event"] | ArrayLike,
    kernel: Kernel | Sequence[Kernel] | None = None,
    *,
    method: str = "permutation",
    num_permutations: int = 500,
    block_size: int | None = None,
    tolerance: float | None = None,
    num_features: int = 100,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Return MMD^2 and its p-value, (1 + #{resampled >= observed}) / (1 + resamplings).

    | method | resampling | level | statistic | time, memory |
    |---|---|---|---|---|
    | "permutation" | relabels the points | exact, any n and m | unbiased | O((n + m)^2), both |
    | "wild-bootstrap" | signs of pairs (x_i, y_i), n = m | asymptotic | leaves out the kernel of each pair | O(n^2), both |
    | "random-features" | relabels the points | exact, any n and m | unbiased, of random features | O((n + m) L), O(L) |
    | "linear-time" | signs of pairs of pairs | exact, min(n, m) of each | mean of O(n) independent terms | O(n + m), O(1) |

    Pairs are x_i with the rows of y in a random order, so that rows stored sorted or by class do no harm. All tests are for
    independent samples. Labels and signs of all resamplings take n + m bytes each.

    Large samples have four ways, whose power differs (docs/lab/two-sample.md):

    * `tolerance` takes the statistic of the first two by sums in O((n + m) log(n + m)) within it, a sum a resampling, where the
      kernel and the dimension have such sums (`ops.backend("fast")`). No power is lost.
    * "random-features" (Zhao, Meng 2015; normalised: Chwialkowski, Ramdas, Sejdinovic, Gretton 2015) compares samples at L random
      frequencies of a smooth radial kernel.
    * `block_size` (Zaremba, Gretton, Blaschko 2013): both samples are dealt at random into blocks of that many points together,
      the statistic is the mean of the blocks', and resampling stays within blocks, so that the level is as before. Where the
      samples are alike, the statistic's standard deviation is ((n + m) / block_size)^(1/2) times that of the whole test, so that
      the least MMD^2 that is seen is as many times larger. Take the largest blocks that time allows.
    * "linear-time" (Gretton et al. 2012, section 6) is for any kernel and the least power: that of blocks of 4.

    The default bandwidth is the median distance of both samples together; where that is 0, because most points are equal, it is
    the median of the positive distances.

    With several kernels the test is aggregated over them: the smallest of their p-values is compared with the smallest of every
    resampling's (as Schrab et al. 2023 with equal weights; by min-p rather than by bisection), so that no correction is lost
    where the kernels agree. The statistic is then that of the kernel with the smallest p-value.

    MMDAgg's "laplace" kernel takes the L1 distance; our `Laplace` takes the Euclidean one, so that their values differ.

    Args:
        x: the first sample, n >= 2.
        y: the second sample, m >= 2.
        kernel: one, or several to aggregate over (`gaussian_scales`); Gaussian with the median heuristic when None.
        method: "permutation", "wild-bootstrap", "random-features" or "linear-time".
        num_permutations: resamplings.
        block_size: points of a block, of both samples together, at least 4; None for one block of all.
        tolerance: of sums, relative, in place of Gram matrices; None for Gram matrices.
        num_features: L, frequencies of "random-features".
        generator: of the resamplings, of pairs, blocks and frequencies.

    Raises:
        InputError: for mismatched event shapes, fewer than 2 points, entries that are not finite, n != m in the wild bootstrap,
            options that do not go together, kernels that a way does not take, or what the memory does not hold.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(100, 2, generator=generator), torch.randn(100, 2, generator=generator)
        >>> mmd_test(x, y + 1, generator=generator)[1] < 0.05 < mmd_test(x, y, gaussian_scales(x), generator=generator)[1]
        True
    """
    x, y = _checks.samples("x", x, "y", y)
    _checks.count("num_permutations", num_permutations)
    way = METHODS[_checks.choice("method", method, METHODS)]
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise InputError(f"x and y have {n} and {m} points: each needs at least 2")
    _check_options(method, n, m, block_size, tolerance)
    count = 1 if block_size is None else _num_blocks(n, m, _checks.count("block_size", block_size, 4))
    rows = -(-n // count) + -(-m // count)
    _check_memory(rows, x, num_permutations, gram=way.by_gram is not None and tolerance is None)
    kernels = _kernels(kernel, x, y, generator)
    if way.some:  # of the larger sample some are left out
        x = x[_shuffled(n, generator, x)]
    if way.pairs:
        y = y[_shuffled(m, generator, y)]
    blocks = _dealt(x, y, count, generator, together=way.pairs)
    statistic = way.statistic(tolerance, _checks.count("num_features", num_features), generator)
    with ops.within(tolerance):
        table, p_values = Resampling(way.draw, statistic, num_permutations, generator).tails(kernels, blocks)
    smallest = p_values.min(0).values
    return float(table[p_values[:, 0].argmin(), 0]), float((smallest <= smallest[0]).double().mean())


def _kernels(
    kernel: Kernel | Sequence[Kernel] | None, x: Tensor, y: Tensor, generator: torch.Generator | None
) -> list[Kernel]:
    """Return the kernels to test with, by default one Gaussian."""
    if kernel is None:
        # a random order, so that the heuristic's subsample holds points of both
        kernel = Gaussian(_typical_distance(torch.cat([x, y])[_shuffled(len(x) + len(y), generator, x)]))
    kernels = [kernel] if isinstance(kernel, Kernel) else list(kernel)
    if not kernels:
        raise InputError("kernel = []: must hold at least one kernel")
    return kernels


def _check_options(method: str, n: int, m: int, block_size: int | None, tolerance: float | None) -> None:
    """Raise InputError unless the options go together."""
    if method == "wild-bootstrap" and n != m:
        raise InputError(f"method = 'wild-bootstrap' with {n} and {m} points: must be equally many")
    if tolerance is not None:
        _checks.positive("tolerance", tolerance)
    for name, value in (("block_size", block_size), ("tolerance", tolerance)):
        if value is not None and METHODS[method].by_gram is None:
            raise InputError(f"{name} = {value} with method = {method!r}: must be None")
    if block_size is not None and tolerance is not None:
        raise InputError(f"block_size = {block_size} with tolerance = {tolerance:g}: one of them must be None")


def _dealt(
    x: Tensor, y: Tensor, count: int, generator: torch.Generator | None, *, together: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return both samples dealt at random into so many blocks; pairs, whose order is random already, stay `together`."""
    if count == 1:
        return [(x, y)]
    order = _shuffled(len(x), generator, x)
    shuffled = y[order] if together else y[_shuffled(len(y), generator, y)]
    return list(zip(x[order].tensor_split(count), shuffled.tensor_split(count), strict=True))


def _num_blocks(n: int, m: int, block_size: int) -> int:
    """Return how many blocks hold that many points of both samples together, and two of each at least."""
    return max(1, min(round((n + m) / block_size), n // 2, m // 2))


def _shuffled(count: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    return torch.randperm(count, generator=generator, device=device_of(generator)).to(like.device)


def gaussian_scales(
    x: Float[Tensor, "n *event"] | ArrayLike, factors: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0)
) -> list[Kernel]:
    """Return Gaussian kernels whose bandwidths are the median distance of x times each factor.

    Where the median distance is 0, because most points are equal, the median of the positive distances takes its place.
    """
    typical = _typical_distance(_checks.points("x", x))
    return [Gaussian(typical * _checks.positive("factors", factor)) for factor in factors]


def _typical_distance(x: Float[Tensor, "n *event"]) -> float:
    """Return the median distance of x, or that of its positive distances where it is 0; 1 where all points are equal."""
    try:
        return median_bandwidth(x)
    except InputError:
        if len(x) < 2:
            raise
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:_BANDWIDTH_ROWS]
    points = flat(x)[order.to(x.device)]
    squares = squared_distances(points, points)
    positive = squares[squares > 0]
    return float(positive.median().sqrt()) if len(positive) else 1.0


def _check_memory(rows: int, x: Tensor, num_permutations: int, *, gram: bool) -> None:
    """Raise InputError where more memory than is left goes to a Gram matrix, in x's dtype and in float64, or to labels."""
    left = memory_left(x.device)
    if left is None:
        return
    of_pair = 8 + x.element_size()
    if gram and rows**2 * of_pair > left:
        raise InputError(
            f"x and y have {rows} points: their Gram matrix takes {rows**2 * of_pair / 2**30:.0f} GiB of {left / 2**30:.0f} GiB "
            f"free; test at most {int((left / of_pair) ** 0.5)} points, drawn at random, or give mmd_test a block_size, a "
            f"tolerance, or method = 'random-features' or 'linear-time'"
        )
    needed = rows * (num_permutations + 1)
    if needed > left:
        raise InputError(
            f"num_permutations = {num_permutations} with {rows} points: takes {needed / 2**30:.0f} GiB of {left / 2**30:.0f} GiB "
            f"free; must be at most {max(1, left // rows - 1)}"
        )


class Method(NamedTuple):
    """A way to test.

    Attributes:
        draw: of resamplings.
        by_gram: its statistic from Gram matrices, in blocks or whole; None where it needs none.
        by_sums: the same by sums over pairs.
        by_features: makes the statistic of so many random features, in place of the two.
        of_pairs: the statistic of pairs of pairs, in place of all.
        pairs: whether the order of y matters.
        some: whether it leaves out some of the larger sample.
    """

    draw: Draw
    by_gram: Statistic | None = None
    by_sums: Statistic | None = None
    by_features: Callable[[int, torch.Generator | None], Statistic] | None = None
    of_pairs: Statistic | None = None
    pairs: bool = False
    some: bool = False

    def statistic(self, tolerance: float | None, num_features: int, generator: torch.Generator | None) -> Statistic:
        """Return the statistic, by sums where there is a tolerance."""
        if self.by_features is not None:
            return self.by_features(num_features, generator)
        chosen = self.of_pairs or (self.by_gram if tolerance is None else self.by_sums)
        assert chosen is not None
        return chosen


METHODS = {
    "permutation": Method(draw_labels, labels_by_gram, labels_by_sums),
    "wild-bootstrap": Method(draw_signs, signs_by_gram, signs_by_sums, pairs=True),
    "random-features": Method(draw_labels, by_features=LabelsByFeatures),
    "linear-time": Method(draw_signs_of_halves, of_pairs=signs_by_pairs, pairs=True, some=True),
}


class StopWhenIndistinguishable:
    """A callback of `flow`: stop when the MMD test can't tell the particles from held-out samples of the target.

    The result's report holds the last `p_value`, all `p_values` with the steps at which they were `tested_at`, and whether the
    test `accepted`. Particles of a flow repel each other, so they may look more even than independent samples and p-values may
    exceed what those would give; and who tests often stops early by chance at times: `every` should not be small.

    Args:
        held_out: samples of the target that the flow does not use, [m, *event], m >= 2.
        level: stop once the p-value is at least this.
        every: test after every so many steps.
        kernel: as `mmd_test` takes it; by default Gaussians of five bandwidths around the median of held_out, aggregated.
        method: of `mmd_test`.
        num_permutations: resamplings a test.
        generator: of the resamplings.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Riesz, flow
        >>> generator = torch.Generator().manual_seed(0)
        >>> y = torch.randn(400, 2, generator=generator)
        >>> stop = StopWhenIndistinguishable(y[200:], every=20, num_permutations=99, generator=generator)
        >>> result = flow(MMD(y[:200], Riesz()), y[:100] + 3, step_size=0.5, momentum=0.8, num_steps=400, callback=stop)
        >>> result.report["accepted"], result.report["p_value"] >= 0.05
        (True, True)
    """

    def __init__(
        self,
        held_out: Float[Tensor, "m *event"] | ArrayLike,
        *,
        level: float = 0.05,
        every: int = 50,
        kernel: Kernel | Sequence[Kernel] | None = None,
        method: str = "permutation",
        num_permutations: int = 200,
        generator: torch.Generator | None = None,
    ) -> None:
        self.held_out = _checks.points("held_out", held_out)
        if len(self.held_out) < 2:
            raise InputError("held_out has 1 point: must have at least 2")
        self.level = _checks.interval("level", level, 0.0, 1.0, "()")
        self.every = _checks.count("every", every)
        self.kernel = gaussian_scales(self.held_out) if kernel is None else kernel
        self.method = _checks.choice("method", method, METHODS)
        self.num_permutations = _checks.count("num_permutations", num_permutations)
        self.generator = generator
        self.p_values: list[float] = []
        self.tested_at: list[int] = []

    def start(self, particles: Tensor, weights: Tensor | None) -> None:
        """Begin a flow: forget the last one, and check that its particles can be tested."""
        _checks.points("particles", particles, self.held_out.shape[1:])
        if len(particles) < 2:
            raise InputError("particles has 1 point: StopWhenIndistinguishable needs at least 2")
        if self.method == "wild-bootstrap" and len(particles) != len(self.held_out):
            raise InputError(
                f"method = 'wild-bootstrap' with {len(particles)} particles and {len(self.held_out)} held-out samples: must be "
                f"equally many"
            )
        if weights is not None:
            raise InputError(
                "weights with StopWhenIndistinguishable: must be None; the test takes equally weighted particles"
            )
        self.p_values, self.tested_at = [], []

    def __call__(self, step: int, particles: Tensor) -> bool:
        """Test when it is time; return whether to stop."""
        if step % self.every:
            return False
        _, p_value = mmd_test(
            particles,
            self.held_out,
            self.kernel,
            method=self.method,
            num_permutations=self.num_permutations,
            generator=self.generator,
        )
        self.p_values.append(p_value)
        self.tested_at.append(step)
        return p_value >= self.level

    def report(self) -> dict[str, Any]:
        """Return the p-values with the steps of their tests, and whether the last test accepted."""
        last = self.p_values[-1] if self.p_values else None
        return {
            "p_value": last,
            "p_values": list(self.p_values),
            "tested_at": list(self.tested_at),
            "accepted": last is not None and last >= self.level,
        }
