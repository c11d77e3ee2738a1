"""What slicing the energy distance saves and what it costs: Figure 1 of Hertrich, Wald, Altekrueger, Hagemann (ICLR 2024).

Left: the time of 1000 gradients of the MMD at d = 100, by the sum over all pairs (O(N^2)) and by sorting P slices
(O(P N log N)). Middle and right: the relative error of the sliced gradient against P and against d, which their Theorem 4
bounds by O((d / P)^(1/2)) for independent directions; orthogonal blocks of directions are measured beside them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import MMD, Divergence, Riesz, SlicedMMD
from mmdflow.studies._fits import log_slope
from mmdflow.studies.base import Outcome, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "GS-MMD-RK paper, Figure 1: run time of naive and sliced gradients, error against slices and dimension"
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "dim": 100,
        "naive_sizes": [500, 1000, 2000, 4000],
        "sliced_sizes": [500, 1000, 2000, 4000, 8000, 16000],
        "projections": [10, 100, 500],
        "num_gradients": 3,
        "error_points": 50,
        "error_projections": [10, 30, 100, 300, 1000, 3000, 10000],
        "error_dims": [10, 20, 50, 100, 200, 500, 1000],
        "fixed_projections": 1000,
        "repeats": 5,
    },
}
SCALES["full"] = SCALES["small"] | {
    "naive_sizes": [500, 1000, 2000, 4000, 8000, 16000],
    "sliced_sizes": [500, 1000, 2000, 4000, 8000, 16000, 32000],
    "projections": [10, 100, 1000],
    "num_gradients": 10,
    "repeats": 20,
}
KINDS = ("random", "orthogonal")
#: How far a measured exponent of the error may be from 1/2.
TOLERANCE = 0.1

CLAIM = (
    "Hertrich et al. 2024, Figure 1 and Theorem 4: the sliced gradient takes O(N log N) where the naive one takes O(N^2), and "
    "its relative error with P random directions in dimension d behaves like (d/P)^(1/2)"
)


@dataclass(frozen=True, kw_only=True)
class SlicedCost(Study):
    """The cost of sliced and full gradients.

    Attributes:
        dim: d of the run times and of the errors against P.
        naive_sizes: N = M of the naive run times.
        sliced_sizes: N = M of the sliced run times.
        projections: P of the run times.
        num_gradients: gradients that are timed; the median is shown times 1000.
        error_points: N = M of the errors.
        error_projections: P of the errors.
        error_dims: d of the errors against d.
        fixed_projections: P of the errors against d.
        repeats: draws of directions and points that an error is averaged over.
    """

    dim: int
    naive_sizes: Sequence[int]
    sliced_sizes: Sequence[int]
    projections: Sequence[int]
    num_gradients: int
    error_points: int
    error_projections: Sequence[int]
    error_dims: Sequence[int]
    fixed_projections: int
    repeats: int

    def outcome(self) -> Outcome:
        """Time gradients and measure their errors."""
        generator = torch.Generator().manual_seed(self.seed)
        bar = tqdm(
            total=len(self.naive_sizes) + len(self.projections) * len(self.sliced_sizes),
            disable=not self.progress,
            desc="timing",
        )

        def clock(sizes: Sequence[int], divergence: Callable[[Tensor], Divergence]) -> list[float]:
            seconds = []
            for n in sizes:
                x, y = (p.float() for p in _points(n, self.dim, generator))
                seconds.append(1000 * _seconds(divergence(y), x, self.num_gradients))
                bar.update()
            return seconds

        naive = clock(self.naive_sizes, lambda y: MMD(y, Riesz()))
        sliced = {
            str(p): clock(self.sliced_sizes, lambda y, p=p: SlicedMMD(y, p, directions="random", generator=generator))  # type: ignore[misc]
            for p in self.projections
        }
        bar.close()

        against_p = {
            k: [_error(self.dim, p, k, self.error_points, self.repeats, generator) for p in self.error_projections]
            for k in KINDS
        }
        against_d = {
            k: [
                _error(d, self.fixed_projections, k, self.error_points, self.repeats, generator)
                for d in self.error_dims
            ]
            for k in KINDS
        }

        cost_slopes = {"naive": log_slope(self.naive_sizes[-3:], naive[-3:])}
        cost_slopes |= {p: log_slope(self.sliced_sizes[-3:], seconds[-3:]) for p, seconds in sliced.items()}
        p_slopes = {k: log_slope(self.error_projections, e) for k, e in against_p.items()}
        d_slopes = {k: log_slope(self.error_dims, e) for k, e in against_d.items()}
        largest = max(set(self.naive_sizes) & set(self.sliced_sizes))
        gains = {
            p: naive[self.naive_sizes.index(largest)] / s[self.sliced_sizes.index(largest)] for p, s in sliced.items()
        }
        few, many = str(min(self.projections)), str(max(self.projections))
        seen = (
            abs(p_slopes["random"] + 0.5) <= TOLERANCE
            and abs(d_slopes["random"] - 0.5) <= TOLERANCE
            and cost_slopes[many] < 1.4
            and cost_slopes["naive"] > 1.6
            and gains[few] > 1
        )
        finding = (
            f"The time grows as N^{cost_slopes['naive']:.2f} naively and N^{cost_slopes[many]:.2f} with {many} slices; at N = "
            f"{largest}, d = {self.dim}, slicing is "
            + ", ".join(f"{gain:.2g} times as fast with {p}" for p, gain in gains.items())
            + f" slices; the gradient's error goes as P^{p_slopes['random']:.2f} d^{d_slopes['random']:.2f} with random "
            f"directions and P^{p_slopes['orthogonal']:.2f} d^{d_slopes['orthogonal']:.2f} with orthogonal ones "
            f"({100 * against_p['random'][-1]:.2g} and {100 * against_p['orthogonal'][-1]:.2g} percent at P = "
            f"{self.error_projections[-1]}, d = {self.dim})."
        )
        figures = {
            "naive_sizes": list(self.naive_sizes),
            "sliced_sizes": list(self.sliced_sizes),
            "seconds_of_1000_gradients": {"naive": naive, **sliced},
            "gradients_timed": self.num_gradients,
            "cost_exponents": cost_slopes,
            "speed_ratio_at_largest_common_size": gains,
            "error_projections": list(self.error_projections),
            "error_dims": list(self.error_dims),
            "error_against_projections": against_p,
            "error_against_dim": against_d,
            "error_exponents_in_projections": p_slopes,
            "error_exponents_in_dim": d_slopes,
        }
        return Outcome(
            CLAIM, seen, finding, figures, lambda figure: _draw(figure, figures, self.dim, self.fixed_projections)
        )


def relative_error(x: Tensor, y: Tensor, num_directions: int, directions: str, generator: torch.Generator) -> float:
    """Return |sliced gradient - gradient| / |gradient| over all particles together."""
    exact = MMD(y, Riesz()).velocity(x)
    sliced = SlicedMMD(y, num_directions, directions=directions, generator=generator, redraw=False).velocity(x)
    return float((sliced - exact).norm() / exact.norm())


def _error(dim: int, num_directions: int, kind: str, n: int, repeats: int, generator: torch.Generator) -> float:
    draws = (relative_error(*_points(n, dim, generator), num_directions, kind, generator) for _ in range(repeats))
    return statistics.fmean(draws)


def _points(n: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw particles from N(0, I) and a target from N((1, ..., 1), I)."""
    x, y = (torch.randn(n, dim, dtype=torch.float64, generator=generator) for _ in range(2))
    return x, y + 1


def _seconds(divergence: Divergence, x: Tensor, num_gradients: int) -> float:
    """Return the median time of a gradient, after one that is not timed."""
    divergence.velocity(x)
    times = []
    for _ in range(num_gradients):
        start = time.perf_counter()
        divergence.velocity(x)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _draw(figure: Figure, figures: dict[str, Any], dim: int, fixed_projections: int) -> None:
    figure.set_size_inches(13.5, 4)
    left, middle, right = figure.subplots(1, 3)
    seconds = figures["seconds_of_1000_gradients"]
    for name, values in seconds.items():
        naive = name == "naive"
        sizes = figures["naive_sizes" if naive else "sliced_sizes"]
        style = {"color": "black", "lw": 2.5} if naive else {}
        left.loglog(sizes, values, "o-", label="naive" if naive else f"P = {name}", **style)
    left.set(
        title=f"1000 gradients ({figures['gradients_timed']} timed), d = {dim}",
        xlabel="particles N = target samples M",
        ylabel="seconds",
    )
    for axes, key, values, exponent in (
        (middle, "error_against_projections", figures["error_projections"], -0.5),
        (right, "error_against_dim", figures["error_dims"], 0.5),
    ):
        for kind, errors in figures[key].items():
            axes.loglog(values, errors, "o-", label=f"{kind} directions")
        start = figures[key]["random"][0]
        axes.loglog(
            values, [start * (v / values[0]) ** exponent for v in values], "k:", label="proportional to (d/P)^(1/2)"
        )
        axes.set_ylabel("relative error of the gradient")
    middle.set(title=f"Error, d = {dim}", xlabel="slices P")
    right.set(title=f"Error, P = {fixed_projections}", xlabel="dimension d")
    for axes in (left, middle, right):
        axes.legend(frameon=False)


run = SlicedCost.run
