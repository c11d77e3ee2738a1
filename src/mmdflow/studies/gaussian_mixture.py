"""Four Gaussians: KALE's flow beside those of KL and MMD, with and without noise injection (Glaser et al. 2021).

The mixture-of-Gaussians experiment. Settings are those of the authors' code: components of standard deviation 0.25 at the
corners of [0, 1.8]^2, 240 particles from a Gaussian of standard deviation 0.2 at (-0.18, -0.18), kernel exp(-r^2 / 0.5) of
bandwidth 1/2, noise injection 0.3 throughout. KL's flow is the unadjusted Langevin algorithm on the mixture's density.
Distances between flows at equal times are energy distances here, Sinkhorn divergences there. The small scale makes
fewer, larger steps to the same time, 50. The distances to KL's flow hang on when Langevin's particles cross between the
components, which differs from seed to seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmdflow import KALE, MMD, FlowResult, Gaussian, Riesz, flow
from mmdflow.divergences import PotentialEnergy
from mmdflow.divergences.functional import mmd2
from mmdflow.flows import Record
from mmdflow.studies.base import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Four Gaussians: KALE's flow beside KL's and MMD's over lambda, and with noise injected"

SCALES: dict[str, dict[str, Any]] = {
    "small": {"num_points": 240, "num_steps": 5000, "step_size": 1e-2},
    "full": {"num_points": 240, "num_steps": 50000, "step_size": 1e-3},
}

CORNERS = ((0.0, 1.8), (1.8, 0.0), (1.8, 1.8), (0.0, 0.0))
WIDTH, BANDWIDTH, NOISE = 0.25, 0.5, 0.3
LAMBDAS = (1e-3, 0.1, 1e4)
FRAMES = 50


class MixturePotential:
    """V = -log of the mixture's density, up to a constant: what Langevin's algorithm follows."""

    def __init__(self, centres: Tensor, width: float) -> None:
        self.centres, self.width = centres, width

    def _logits(self, z: Tensor) -> Tensor:
        return -(torch.cdist(z, self.centres) ** 2) / (2 * self.width**2)

    def __call__(self, z: Tensor) -> Tensor:
        """Return V(z_i)."""
        return -torch.logsumexp(self._logits(z), 1)

    def grad(self, z: Tensor) -> Tensor:
        """Return grad V(z_i)."""
        return (z - self._logits(z).softmax(1) @ self.centres) / self.width**2


def run(*, num_points: int, num_steps: int, step_size: float, seed: int, progress: bool) -> Outcome:
    """Run Langevin, MMD and KALE at three lambdas, and KALE at the middle one with noise injected."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor(CORNERS, dtype=torch.float64)
    noise = torch.randn(2, num_points, 2, generator=generator, dtype=torch.float64)
    y = centres[torch.randint(len(centres), (num_points,), generator=generator)] + WIDTH * noise[0]
    source = 0.2 * noise[1] - 0.18
    kernel = Gaussian(BANDWIDTH)
    experiments: dict[str, tuple[Any, dict[str, Any]]] = {
        "KL": (PotentialEnergy(MixturePotential(centres, WIDTH)), {"diffusion": math.sqrt(2 * step_size)}),
        "MMD": (MMD(y, kernel), {}),
        **{f"KALE {value:g}": (KALE(y, kernel, value), {}) for value in LAMBDAS},
        "KALE 0.1, noise": (KALE(y, kernel, 0.1), {"noise_injection": NOISE}),
    }
    results = {
        name: flow(
            divergence,
            source,
            step_size=step_size,
            num_steps=num_steps,
            save_every=Record(max(1, num_steps // FRAMES), evaluate=name.startswith("KALE 0.1")),
            progress=progress,
            generator=generator,
            **settings,
        )
        for name, (divergence, settings) in experiments.items()
    }
    gaps = {
        reference: {f"{value:g}": _gaps(results[f"KALE {value:g}"], results[reference]) for value in LAMBDAS}
        for reference in ("KL", "MMD")
    }
    values = {name: [float(f"{v:.4g}") for v in results[name].values] for name in ("KALE 0.1", "KALE 0.1, noise")}
    return _outcome(gaps, values, results, y, num_steps * step_size)


def _gaps(first: FlowResult, second: FlowResult) -> list[float]:
    """Return the energy distances between two flows at the steps recorded."""
    pairs = zip(first.trajectory, second.trajectory, strict=True)
    return [float(f"{float(mmd2(a, b, Riesz(), unbiased=False).clamp_min(0)):.4g}") for a, b in pairs]


def _outcome(
    gaps: dict[str, dict[str, list[float]]],
    values: dict[str, list[float]],
    results: dict[str, FlowResult],
    y: Tensor,
    time: float,
) -> Outcome:
    means = {reference: {k: sum(v) / len(v) for k, v in of.items()} for reference, of in gaps.items()}
    kl, mmd = (list(means[reference].values()) for reference in ("KL", "MMD"))
    between = kl == sorted(kl) and mmd == sorted(mmd, reverse=True)
    plain, noisy = (value[-1] for value in values.values())
    return Outcome(
        claim=(
            "Glaser et al. 2021, mixture of Gaussians: with lambda from small to large KALE's flow goes from KL's to MMD's, "
            "and noise injection lowers KALE."
        ),
        seen=between and noisy < plain,
        finding=(
            f"At lambda = {', '.join(means['KL'])} KALE's flow has a mean energy distance of {', '.join(f'{v:.2g}' for v in kl)} "
            f"to KL's and {', '.join(f'{v:.2g}' for v in mmd)} to MMD's; at lambda = 0.1 KALE ends at {noisy:.2e} with noise "
            f"injected and {plain:.2e} without."
        ),
        figures={
            "criterion": "mean distances to KL's flow rise and to MMD's fall over lambda, and KALE ends lower with noise",
            "time": time,
            "mean_distance": means,
            "distance": gaps,
            "values": values,
            "steps": results["MMD"].steps.tolist(),
            "between": between,
        },
        draw=lambda figure: _draw(figure, gaps, values, results, y),
    )


def _draw(
    figure: Figure,
    gaps: dict[str, dict[str, list[float]]],
    values: dict[str, list[float]],
    results: dict[str, FlowResult],
    y: Tensor,
) -> None:
    figure.set_size_inches(12, 5.4)
    rows: Any = figure.subfigures(2, 1)  # each with its own layout
    upper, lower = rows
    for ax, (name, result) in zip(upper.subplots(1, len(results)), results.items(), strict=True):
        x = result.particles
        ax.scatter(y[:, 0], y[:, 1], s=2, c="0.7", linewidths=0)
        ax.scatter(x[:, 0], x[:, 1], s=4, c="tab:blue", linewidths=0)
        ax.set(xlim=(-1.5, 3.3), ylim=(-1.5, 3.3), aspect="equal", xticks=[], yticks=[])
        ax.set_title(f"{name}, end", fontsize=9)
    axes = lower.subplots(1, 3)
    steps = results["MMD"].steps
    for ax, (reference, of) in zip(axes, gaps.items(), strict=False):
        for value, gap in of.items():
            ax.semilogy(steps[1:], gap[1:], label=f"KALE, lambda {value}")
        ax.set(title=f"energy distance to {reference}'s flow", xlabel="step")
        ax.legend(frameon=False, fontsize=8)
    ax = axes[-1]
    for name, curve in values.items():
        ax.semilogy(steps, curve, label=name)
    ax.set(title="KALE at lambda 0.1", xlabel="step")
    ax.legend(frameon=False, fontsize=8)
