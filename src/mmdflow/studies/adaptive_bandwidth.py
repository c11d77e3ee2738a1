r"""The bandwidth that moves one Gaussian fastest towards another: DMMD paper, Proposition 3.1 and Figure 3.

For N(mu, sigma^2 I) against N(0, sigma^2 I) and the normalised Gaussian kernel of bandwidth a, with s = a^2 + 2 sigma^2 and
r = |mu|: MMD_a^2 = 2 s^(-d/2) (1 - exp(-r^2 / 2s)), and the flow of 1/2 MMD_a^2 moves the mean by
dr/dt = -r s^(-d/2-1) exp(-r^2 / 2s). This speed is largest at s = r^2 / (d + 2), the proposition. Inserting it,

    d(r^(d+2))/dt = -(d + 2) ((d + 2) / e)^((d+2)/2)    while r^2 > 2 sigma^2 (d + 2):

r^(d+2) falls linearly, at a rate that knows neither sigma nor r. Below that distance the best bandwidth is 0, the speed
r (2 sigma^2)^(-d/2-1) exp(-r^2 / 4 sigma^2). The populations still move there; particles, which a kernel of width 0 does not
couple, cannot. The paper reads this as adaptivity no longer helping once the supports overlap (it then denoises); the
particles here keep the bandwidth `floor` from there on. Particles do not stay Gaussian either: the ones nearest to the target
leave the others behind, and the distance of the means then says too little about the best width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import Gaussian, KernelWitness
from mmdflow.kernels import optimal_bandwidth
from mmdflow.studies.base import Outcome, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "DMMD paper, Proposition 3.1 and Figure 3: the adaptive bandwidth against fixed ones"
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "dims": [1, 2, 5, 10],
        "sigmas": [0.5, 1.0, 2.0],
        "distances": [0.5, 0.9, 1.1, 2.0, 4.0],
        "num_bandwidths": 4001,
        "bandwidths": [0.5, 1.0, 2.0, 4.0],
        "start": 5.0,
        "num_steps": 20_000,
        "num_particles": 400,
        "step_size": 0.2,
        "num_particle_steps": 1500,
        "floor": 1.0,
    },
}
SCALES["full"] = SCALES["small"] | {"num_particles": 2000, "num_particle_steps": 3000}
#: |mu| counts as having arrived at this fraction of where it began.
ARRIVED = 0.1
#: How far Euler's |mu|^(d+2) may leave the straight line, in parts of its height.
LINE_TOLERANCE = 0.01

CLAIM = (
    "DMMD paper, Proposition 3.1 and Figure 3 (d = 1, sigma = 1): the bandwidth a* = ReLU(|mu|^2/(d+2) - 2 sigma^2)^(1/2) "
    "maximises |grad_mu MMD_a^2|, and the flow that adapts it moves the mean to the target faster than a = 1"
)


@dataclass(frozen=True, kw_only=True)
class AdaptiveBandwidth(Study):
    """The best bandwidth, and flows that follow it.

    Attributes:
        dims: dimensions of the search and of the straight lines.
        sigmas: standard deviations of the search.
        distances: |mu| of the search, in units of the distance 2^(1/2) sigma (d + 2)^(1/2) at which a* leaves 0.
        num_bandwidths: points of the search's grid.
        bandwidths: fixed bandwidths; 1, the paper's, must be among them.
        start: |mu| at time 0 (d = 1, sigma = 1).
        num_steps: Euler steps of the mean.
        num_particles: particles, and as many samples of the target (d = 1, sigma = 1).
        step_size: of the particles.
        num_particle_steps: their steps.
        floor: the particles' smallest adaptive bandwidth.
    """

    dims: Sequence[int]
    sigmas: Sequence[float]
    distances: Sequence[float]
    num_bandwidths: int
    bandwidths: Sequence[float]
    start: float
    num_steps: int
    num_particles: int
    step_size: float
    num_particle_steps: int
    floor: float

    def outcome(self) -> Outcome:
        """Search the best bandwidth, follow the mean, follow particles."""
        search = [
            search_bandwidth(d, c * boundary(d, s), s, self.num_bandwidths)
            for d in self.dims
            for s in self.sigmas
            for c in self.distances
        ]
        lines = [line(d, self.num_steps) for d in self.dims]
        means = {str(a): follow_mean(a, self.start, self.num_steps) for a in self.bandwidths}
        means["adaptive"] = follow_mean(None, self.start, self.num_steps)
        particles = {
            str(a): follow_particles(
                a,
                self.start,
                self.num_particles,
                self.step_size,
                self.num_particle_steps,
                self.floor,
                self.seed,
                self.progress,
            )
            for a in [*self.bandwidths, None]
        }
        particles["adaptive"] = particles.pop("None")

        grid_error = max(abs(row["found"] - row["predicted"]) / row["spacing"] for row in search)
        line_error = max(row["deviation"] for row in lines)
        times = {name: arrival(curve) for name, curve in means.items()}
        left = {name: curve[-1][1] for name, curve in particles.items()}
        faster = _earlier(times["adaptive"], times["1.0"]) and left["adaptive"] < left["1.0"]
        seen = grid_error <= 1 and line_error <= LINE_TOLERANCE and faster
        best = min((name for name in times if name != "adaptive"), key=lambda name: times[name] or math.inf)
        nearest = min((name for name in left if name != "adaptive"), key=lambda name: left[name])
        finding = (
            f"The search over {len(search)} settings misses a* by at most {grid_error:.2f} grid spacings; |mu_t|^(d+2) "
            f"leaves its straight line by at most {line_error:.1e} of its height; from |mu| = {self.start:g} to "
            f"{ARRIVED * self.start:g} the mean takes time {_show(times['adaptive'])} adaptively, {_show(times['1.0'])} "
            f"with a = 1 and {_show(times[best])} with the best fixed a = {best}; {self.num_particles} particles, which do "
            f"not stay Gaussian, are {left['adaptive']:.2f} away at time {self.step_size * self.num_particle_steps:g} "
            f"adaptively, {left['1.0']:.2f} with a = 1 and {left[nearest]:.2f} with a = {nearest}."
        )
        figures = {
            "search_error_in_spacings": grid_error,
            "search_settings": len(search),
            "lines": lines,
            "mean_times": times,
            "particle_distances": left,
            "mean_flow": {name: _thin(curve) for name, curve in means.items()},
            "particle_flow": {name: _thin(curve) for name, curve in particles.items()},
        }
        return Outcome(CLAIM, seen, finding, figures, lambda figure: _draw(figure, figures, self.start))


def boundary(dim: int, sigma: float) -> float:
    """Return the distance |mu| at which the best bandwidth leaves 0."""
    return math.sqrt(2 * (dim + 2)) * sigma


def speed(mean_norm: float, bandwidth: float, dim: int, sigma: float) -> float:
    """Return -d|mu|/dt of the flow of 1/2 MMD^2 between the two Gaussians."""
    s = bandwidth**2 + 2 * sigma**2
    return mean_norm * math.exp(-(dim / 2 + 1) * math.log(s) - mean_norm**2 / (2 * s))


def gradient_norms(mean_norm: float, bandwidths: Tensor, dim: int, sigma: float) -> Tensor:
    """Return log |grad_mu MMD_a^2| for every bandwidth, by differentiating MMD_a^2 itself."""
    r = torch.full_like(bandwidths, mean_norm, requires_grad=True)
    s = bandwidths**2 + 2 * sigma**2
    relative = (s / s[0]) ** (-dim / 2)  # s[0]^(-d/2) aside, which is tiny or huge in high dimension
    mmd2 = -2 * relative * torch.expm1(-(r**2) / (2 * s))
    return torch.autograd.grad(mmd2.sum(), r)[0].log() - dim / 2 * s[0].log()


def search_bandwidth(dim: int, mean_norm: float, sigma: float, num_bandwidths: int) -> dict[str, float]:
    """Compare a* with the maximiser of |grad_mu MMD_a^2| on a grid."""
    grid = torch.linspace(0, 2 * mean_norm, num_bandwidths, dtype=torch.float64)
    searched = float(grid[gradient_norms(mean_norm, grid, dim, sigma).argmax()])
    predicted = optimal_bandwidth(mean_norm, dim, sigma)
    return {
        "dim": dim,
        "sigma": sigma,
        "mean_norm": mean_norm,
        "found": searched,
        "predicted": predicted,
        "spacing": float(grid[1]),
    }


def line(dim: int, num_steps: int) -> dict[str, Any]:
    """Follow |mu_t|^(d+2) by Euler from 3/2 of the boundary down to it (sigma = 1), against the closed form."""
    end = boundary(dim, 1.0)
    first = 1.5 * end
    slope = (dim + 2) * math.exp((dim + 2) / 2 * (math.log(dim + 2) - 1))
    height = first ** (dim + 2) - end ** (dim + 2)
    time = height / slope
    r, curve, deviation = first, [1.0], 0.0
    for step in range(1, num_steps + 1):
        r -= time / num_steps * speed(r, optimal_bandwidth(r, dim, 1.0), dim, 1.0)
        left = (r ** (dim + 2) - end ** (dim + 2)) / height
        deviation = max(deviation, abs(left - (1 - step / num_steps)))
        if step % max(1, num_steps // 20) == 0:
            curve.append(float(f"{left:.5g}"))
    return {"dim": dim, "slope": -slope, "time": time, "deviation": deviation, "curve": curve}


def follow_mean(
    bandwidth: float | None, start: float, num_steps: int, horizon: float = 150.0
) -> list[tuple[float, float]]:
    """Follow the mean by Euler (d = 1, sigma = 1); bandwidth None adapts it. Return (time, |mu|) pairs."""
    r, curve = start, [(0.0, start)]
    for step in range(1, num_steps + 1):
        r -= horizon / num_steps * speed(r, optimal_bandwidth(r, 1, 1.0) if bandwidth is None else bandwidth, 1, 1.0)
        curve.append((step * horizon / num_steps, r))
    return curve


def follow_particles(
    bandwidth: float | None,
    start: float,
    n: int,
    step_size: float,
    num_steps: int,
    floor: float,
    seed: int,
    progress: bool,
) -> list[tuple[float, float]]:
    """Follow particles (d = 1, sigma = 1); bandwidth None adapts it to the distance of the means, down to `floor`."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    x = torch.randn(n, 1, dtype=torch.float64, generator=generator) + start
    weights = torch.cat([torch.ones(n), -torch.ones(n)]).double() / n
    curve = [(0.0, abs(float(x.mean() - y.mean())))]
    for step in tqdm(range(num_steps), disable=not progress, desc=f"a = {bandwidth or 'adaptive'}", unit="step"):
        a = max(floor, optimal_bandwidth(curve[-1][1], 1, 1.0)) if bandwidth is None else bandwidth
        x = x - step_size * KernelWitness(Gaussian(a, normalized=True), torch.cat([x, y]), weights).grad(x)
        curve.append(((step + 1) * step_size, abs(float(x.mean() - y.mean()))))
    return curve


def arrival(curve: Sequence[tuple[float, float]]) -> float | None:
    """Return the first time at which |mu| is down to `ARRIVED` of its start, or None."""
    return next((time for time, r in curve if r <= ARRIVED * curve[0][1]), None)


def _earlier(first: float | None, second: float | None) -> bool:
    return first is not None and (second is None or first < second)


def _show(time: float | None) -> str:
    return "more than the horizon" if time is None else f"{time:.1f}"


def _thin(curve: Sequence[tuple[float, float]], points: int = 30) -> list[list[float]]:
    thinned = [*curve[:: max(1, len(curve) // points)], curve[-1]]
    return [[float(f"{v:.4g}") for v in axis] for axis in zip(*thinned, strict=True)]


def _draw(figure: Figure, figures: dict[str, Any], start: float) -> None:
    figure.set_size_inches(14, 3.6)
    axes = figure.subplots(1, 4)
    for r in (2.0, 3.0, 5.0, 8.0):
        grid = torch.linspace(0, 10, 400, dtype=torch.float64)
        curve = gradient_norms(r, grid, 1, 1.0).exp()
        best = optimal_bandwidth(r, 1, 1.0)
        (drawn,) = axes[0].plot(grid, curve / curve.max(), label=f"|mu| = {r:g}")
        axes[0].plot([best], [1.0], "o", color=drawn.get_color())
    axes[0].set(title="Dots: a* of Prop. 3.1 (d = 1)", xlabel="bandwidth a", ylabel="|grad MMD²| / its maximum")
    axes[0].legend(frameon=False)
    for ax, key, title in (
        (axes[1], "mean_flow", "Means of Gaussians"),
        (axes[2], "particle_flow", "Particles"),
    ):
        for name, (times, values) in figures[key].items():
            adaptive = name == "adaptive"
            ax.plot(times, values, color="black" if adaptive else None, lw=2.5 if adaptive else 1.3,
                    label="adaptive a*" if adaptive else f"a = {name}")  # fmt: skip
        ax.axhline(boundary(1, 1.0), color="0.6", ls=":", lw=1)
        ax.set(title=f"{title} (d = 1, σ = 1)", xlabel="time", ylabel="distance of the means", ylim=(0, 1.05 * start))
        ax.legend(frameon=False)
    for row in figures["lines"]:
        time = torch.linspace(0, 1, len(row["curve"]), dtype=torch.float64)
        end, power = (2 / 3) ** (row["dim"] + 2), 1 / (row["dim"] + 2)
        (drawn,) = axes[3].plot(time, (end + (1 - end) * (1 - time)) ** power, lw=1)
        euler = end + (1 - end) * torch.tensor(row["curve"], dtype=torch.float64)
        axes[3].plot(time, euler**power, ".", color=drawn.get_color(), label=f"d = {row['dim']}")
    axes[3].set(title="a = a*: |mu|^(d+2) falls linearly", xlabel="time / time to a* = 0", ylabel="|mu| / its start")
    axes[3].legend(frameon=False, title="lines: closed form\ndots: Euler")


run = AdaptiveBandwidth.run
