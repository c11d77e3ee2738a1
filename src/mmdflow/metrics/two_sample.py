"""The MMD two-sample test (Gretton et al. 2012; Schrab et al. 2023), and the flow that stops when it accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._precision import full_precision, widened
from mmdflow._tensors import device_of, flat, memory_left
from mmdflow.errors import InputError
from mmdflow.kernels import Gaussian, Kernel, median_bandwidth, squared_distances
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
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Return MMD^2 and its p-value, (1 + #{resampled >= observed}) / (1 + resamplings).

    "permutation" relabels the points: its level is exact for any n and m, and the statistic is the unbiased one. "wild-bootstrap"
    flips the signs of pairs: it needs n = m, its level is asymptotic, and its statistic leaves out the kernel of each pair. The
    pairs are x_i with the rows of y in a random order, so that rows stored sorted or by class do no harm. Both tests are for
    independent samples. Both cost one Gram matrix of (n + m)^2 entries a kernel.

    Large samples are tested by blocks (Zaremba, Gretton, Blaschko 2013): both are dealt at random into blocks of `block_size`
    points together, the statistic is the mean of the blocks', and resampling stays within blocks, so that the level is as
    before. Time grows as (n + m) block_size and memory as block_size^2. Power is lost: where the samples are alike, the
    statistic's standard deviation is ((n + m) / block_size)^(1/2) times that of the whole test, so that the least MMD^2 that is
    seen is as many times larger. Take the largest blocks that time allows.

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
        method: "permutation" or "wild-bootstrap".
        num_permutations: resamplings.
        block_size: points of a block, of both samples together, at least 4; None for one block of all.
        generator: of the resamplings, and of the blocks.

    Raises:
        InputError: for mismatched event shapes, fewer than 2 points, entries that are not finite, n != m in the wild bootstrap,
            or a Gram matrix that the memory does not hold.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(100, 2, generator=generator), torch.randn(100, 2, generator=generator)
        >>> mmd_test(x, y + 1, generator=generator)[1] < 0.05 < mmd_test(x, y, gaussian_scales(x), generator=generator)[1]
        True
    """
    x, y = _checks.samples("x", x, "y", y)
    _checks.count("num_permutations", num_permutations)
    _checks.choice("method", method, METHODS)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise InputError(f"x and y have {n} and {m} points: each needs at least 2")
    if method == "wild-bootstrap" and n != m:
        raise InputError(f"method = 'wild-bootstrap' with {n} and {m} points: must be equally many")
    count = 1 if block_size is None else _num_blocks(n, m, _checks.count("block_size", block_size, 4))
    _check_memory(-(-n // count) + -(-m // count), x)
    if kernel is None:
        # a random order, so that the heuristic's subsample holds points of both
        both = torch.cat([x, y])
        kernel = Gaussian(_typical_distance(both[_shuffled(n + m, generator, x)]))
    kernels = [kernel] if isinstance(kernel, Kernel) else list(kernel)
    if not kernels:
        raise InputError("kernel = []: must hold at least one kernel")
    if method == "wild-bootstrap":
        y = y[_shuffled(m, generator, y)]
    blocks = [(x, y)]
    if count > 1:
        order = _shuffled(n, generator, x)
        # the pairs of the wild bootstrap stay together; their order is random already
        shuffled = y[order] if method == "wild-bootstrap" else y[_shuffled(m, generator, y)]
        blocks = list(zip(x[order].tensor_split(count), shuffled.tensor_split(count), strict=True))
    rows, tails = _resampled(kernels, blocks, method, num_permutations, generator)
    table, p_values = torch.stack(rows), torch.stack(tails)  # [kernels, 1 + resamplings], the observed one first
    smallest = p_values.min(0).values
    return float(table[p_values[:, 0].argmin(), 0]), float((smallest <= smallest[0]).double().mean())


def _resampled(
    kernels: list[Kernel],
    blocks: list[tuple[Tensor, Tensor]],
    method: str,
    num_permutations: int,
    generator: torch.Generator | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the statistics of every kernel, [1 + resamplings], the observed one first, and their upper tails."""
    draw, statistics_of = METHODS[method]
    sums: list[Tensor | float] = [0.0] * len(kernels)
    largest = [0.0] * len(kernels)
    for x, y in blocks:
        both = torch.cat([x, y])
        draws = draw(len(x), len(y), num_permutations, generator)
        for i, k in enumerate(kernels):
            with torch.no_grad():
                points = widened(both) if k.any_dtype else both
                gram = k(points, points).double()
            gram.fill_diagonal_(0)
            sums[i] = sums[i] + statistics_of(gram, draws.to(gram), len(x), len(y))
            largest[i] = max(largest[i], float(gram.abs().max()))
    rows = [torch.as_tensor(total) / len(blocks) for total in sums]
    return rows, [_upper_tail(row, 1e-12 * most) for row, most in zip(rows, largest, strict=True)]


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


def _check_memory(rows: int, x: Tensor) -> None:
    """Raise InputError where the Gram matrix of so many rows, in x's dtype and in float64, takes more memory than there is."""
    needed, left = rows**2 * (8 + x.element_size()), memory_left(x.device)
    if left is not None and needed > left:
        raise InputError(
            f"x and y have {rows} points: their Gram matrix takes {needed / 2**30:.0f} GiB of {left / 2**30:.0f} GiB free; test "
            f"at most {int((left / (8 + x.element_size())) ** 0.5)} points, drawn at random, or give mmd_test a block_size"
        )


def _upper_tail(values: Tensor, slack: float) -> Tensor:
    """Return for each value the share of values that are at least as large; those within slack count as ties."""
    ordered = values.sort().values
    return 1 - torch.searchsorted(ordered, values - slack).double() / len(values)


def _draw_labels(n: int, m: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Mark the points that play x, [n + m, 1 + resamplings]."""
    device = device_of(generator)
    first = torch.zeros(n + m, count + 1, dtype=torch.float64, device=device)
    first[:n, 0] = 1
    for column in range(1, count + 1):
        first[torch.randperm(n + m, generator=generator, device=device)[:n], column] = 1
    return first


def _of_labels(gram: Tensor, first: Tensor, n: int, m: int) -> Tensor:
    product = gram @ first
    within_x = (first * product).sum(0)
    across = product.sum(0) - within_x
    within_y = gram.sum() - within_x - 2 * across
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


def _draw_signs(n: int, m: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw signs of the pairs, [n, 1 + resamplings]."""
    device = device_of(generator)
    signs = 2 * torch.randint(2, (n, count + 1), generator=generator, device=device).double() - 1
    signs[:, 0] = 1
    return signs


def _of_signs(gram: Tensor, signs: Tensor, n: int, m: int) -> Tensor:
    h = gram[:n, :n] + gram[n:, n:] - gram[:n, n:] - gram[n:, :n]
    h.fill_diagonal_(0)
    return (signs * (h @ signs)).sum(0) / (n * (n - 1))


#: Method -> how resamplings are drawn, and the statistics of a Gram matrix with zero diagonal under them.
METHODS = {"permutation": (_draw_labels, _of_labels), "wild-bootstrap": (_draw_signs, _of_signs)}


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
        method: "permutation" or "wild-bootstrap".
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
