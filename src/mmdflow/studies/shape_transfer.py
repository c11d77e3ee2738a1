"""Shape transfer: KALE's flow and MMD's from a heart to a four-armed spiral (Glaser et al. 2021).

Settings are those of the authors' code: kernel exp(-r^2 / 0.01) of bandwidth 0.005^(1/2), 100 steps of 1e-3 at lambda = 1e-3 and
of 1 at lambda = 1e4, where KALE is the MMD. Their shapes are pictures; these are regions of [-1, 1]^2 given by formulas, with
the same number of arms and the same winding. The published third row, the Sinkhorn divergence, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmdflow import KALE, FlowResult, Gaussian, Riesz, flow
from mmdflow.divergences.functional import mmd2
from mmdflow.flows import Record
from mmdflow.studies.base import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Shape transfer: a heart to a spiral by KALE's flow and by MMD's"

SCALES: dict[str, dict[str, Any]] = {
    "small": {"num_points": 500, "num_steps": 100},
    "full": {"num_points": 2000, "num_steps": 100},
}

BANDWIDTH = math.sqrt(0.005)
#: name -> lambda and step size.
FLOWS = {"KALE, lambda 1e-3": (1e-3, 1e-3), "KALE, lambda 1e4 (MMD)": (1e4, 1.0)}
ARMS, WINDING = 4, 11.0


def in_spiral(z: Tensor) -> Tensor:
    """Return which points lie in the dark half of cos(ARMS angle - WINDING radius) on [-1, 1]^2, [n]."""
    phase = ARMS * torch.atan2(z[:, 1], z[:, 0]) - WINDING * z.norm(dim=1)
    return (phase.cos() < 0) & (z.abs().amax(1) <= 1)


def in_heart(z: Tensor) -> Tensor:
    """Return which points lie in the heart (x^2 + y^2 - 1)^3 <= x^2 y^3, scaled by 0.65, [n]."""
    x, y = z[:, 0] / 0.65, z[:, 1] / 0.65
    return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3


def draw_region(inside: Callable[[Tensor], Tensor], num_points: int, generator: torch.Generator) -> Tensor:
    """Draw points uniformly from a region of [-1, 1]^2, by rejection."""
    points = torch.empty(0, 2, dtype=torch.float64)
    while len(points) < num_points:
        z = 2 * torch.rand(2 * num_points, 2, generator=generator, dtype=torch.float64) - 1
        points = torch.cat([points, z[inside(z)]])
    return points[:num_points]


def run(*, num_points: int, num_steps: int, seed: int, progress: bool) -> Outcome:
    """Flow the heart towards the spiral at both lambdas."""
    generator = torch.Generator().manual_seed(seed)
    y = draw_region(in_spiral, num_points, generator)
    source = draw_region(in_heart, num_points, generator)
    results = {
        name: flow(
            KALE(y, Gaussian(BANDWIDTH), regularization),
            source,
            step_size=step_size,
            num_steps=num_steps,
            save_every=Record(max(1, num_steps // 20), evaluate=False),
            progress=progress,
        )
        for name, (regularization, step_size) in FLOWS.items()
    }
    flows = {name: _summary(result.particles, y) for name, result in results.items()}
    start = _summary(source, y)
    kale, mmd = flows.values()
    ratio = kale["energy_distance"] / mmd["energy_distance"]
    return Outcome(
        claim="Glaser et al. 2021, shape transfer: KALE's flow at lambda = 1e-3 recovers the target shape, MMD's does not.",
        seen=ratio < 0.5 and kale["outside"] < mmd["outside"] / 2,
        finding=(
            f"After {num_steps} steps {100 * kale['outside']:.1f} percent of KALE's particles lie outside the spiral and "
            f"{100 * mmd['outside']:.1f} percent of MMD's (heart: {100 * start['outside']:.1f}); the energy distance to the "
            f"target is {kale['energy_distance']:.2e} and {mmd['energy_distance']:.2e} (heart: {start['energy_distance']:.2e})."
        ),
        figures={
            "criterion": "energy distance to the target and share of particles outside both below half of MMD's",
            "source": start,
            "flows": flows,
        },
        draw=lambda figure: _draw(figure, results, y),
    )


def _summary(x: Tensor, y: Tensor) -> dict[str, float]:
    return {
        "outside": float((~in_spiral(x)).double().mean()),
        "energy_distance": float(mmd2(x, y, Riesz(), unbiased=False)),
        "farthest": float(torch.cdist(x, y).amin(1).max()),
    }


def _draw(figure: Figure, results: dict[str, FlowResult], y: Tensor) -> None:
    figure.set_size_inches(11, 4.9)
    moments = (0.0, 0.1, 0.3, 0.6, 1.0)
    axes = figure.subplots(len(results), len(moments) + 1, squeeze=False)
    for row, (name, result) in zip(axes, results.items(), strict=True):
        row[0].set_ylabel(name, fontsize=9)
        for ax, moment in zip(row, moments, strict=False):
            frame = round(moment * (len(result.steps) - 1))
            x = result.trajectory[frame]
            ax.scatter(x[:, 0], x[:, 1], s=4, c="tab:blue", linewidths=0)
            ax.set_title(f"step {int(result.steps[frame])}", fontsize=9)
        row[-1].scatter(y[:, 0], y[:, 1], s=4, c="tab:red", linewidths=0)
        row[-1].set_title("target", fontsize=9)
        for ax in row:
            ax.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", xticks=[], yticks=[])
