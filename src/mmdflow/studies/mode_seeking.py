"""KALE is mode-seeking, MMD is mode-covering (Gretton's slides: "MMD flow is simpler, KALE flow is mode-seeking").

Freely moving particles match the target whatever the divergence, so that the difference shows where they cannot: the
particles are kept the quantiles of one Gaussian N(centre, width^2), the target has two modes. KALE tends to
KL(particles || target) as lambda -> 0, which forbids mass where the target has none, and to 1/2 MMD^2 as lambda -> inf
(Glaser et al. 2021). Measured are the best Gaussian of a grid, over lambda, and where the flow ends when every step is
projected onto Gaussians (by moments). The settings are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import KALE, MMD, Gaussian, flow
from mmdflow.divergences import Divergence
from mmdflow.flows import Record
from mmdflow.studies.base import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "One Gaussian against two modes: KALE takes a mode, MMD covers both"

SCALES: dict[str, dict[str, Any]] = {
    "small": {"num_points": 150, "grid": 13, "num_steps": 1000, "regularizations": (1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e4)},
    "full": {
        "num_points": 400,
        "grid": 31,
        "num_steps": 4000,
        "regularizations": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 100.0, 1e4),
    },
}

#: The target's modes lie at -MODE and MODE.
MODE, MODE_WIDTH, BANDWIDTH = 2.0, 0.5, 1.0
#: Centre and width where the projected flows start: between the modes, and beside one.
STARTS = ((0.5, 1.0), (1.5, 0.5))
#: Points kept of a projected flow's path, besides its start.
PATH = 50


def gaussian(centre: float, width: float, num_points: int) -> Tensor:
    """Return evenly spaced quantiles of N(centre, width^2), [num_points, 1], of that standard deviation exactly."""
    levels = (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points
    quantiles = torch.special.ndtri(levels)
    return (centre + width * quantiles / quantiles.std(correction=0))[:, None]


def run(
    *, num_points: int, grid: int, num_steps: int, regularizations: tuple[float, ...], seed: int, progress: bool
) -> Outcome:
    """Fit one Gaussian by MMD and by KALE at each lambda; the flows use the smallest lambda."""
    generator = torch.Generator().manual_seed(seed)
    half = num_points // 2
    sign = torch.cat([-torch.ones(half, dtype=torch.float64), torch.ones(num_points - half, dtype=torch.float64)])
    y = (MODE * sign + MODE_WIDTH * torch.randn(num_points, generator=generator, dtype=torch.float64))[:, None]
    kernel = Gaussian(BANDWIDTH)
    kale = {f"{r:g}": KALE(y, kernel, r) for r in sorted(regularizations)}
    lowest = next(iter(kale.values()))
    mmd = MMD(y, kernel)
    fits = {
        name: _best(divergence, num_points, grid)
        for name, divergence in tqdm({"mmd": mmd, **kale}.items(), disable=not progress, desc="grids", unit="grid")
    }
    flows = {
        "mmd": [_flow(mmd, start, num_points, 0.1, num_steps, progress) for start in STARTS],
        "kale": [_flow(lowest, start, num_points, 0.005, num_steps, progress) for start in STARTS],
    }
    ends = {name: " and ".join(f"{f['centre']:.2f}" for f in pair) for name, pair in flows.items()}
    best = {"mmd": fits["mmd"], "kale": fits[f"{min(regularizations):g}"]}
    seeks = abs(abs(best["kale"]["centre"]) - MODE) < MODE_WIDTH and best["kale"]["between"] < 0.05
    covers = abs(best["mmd"]["centre"]) < MODE / 2 and best["mmd"]["between"] > 0.2
    fitted = {name: f"{abs(f['centre']):.2f} from 0 with {100 * f['between']:.0f} percent" for name, f in best.items()}
    return Outcome(
        claim="MMD flow is simpler, KALE flow is mode-seeking (Gretton's slides, summary; Glaser et al. 2021).",
        seen=seeks and covers,
        finding=(
            f"With modes at -{MODE:g} and {MODE:g} the best Gaussian lies {fitted['kale']} of its particles between the modes "
            f"for KALE at lambda = {min(regularizations):g}, and {fitted['mmd']} there for MMD; from {STARTS[0][0]:g} and "
            f"{STARTS[1][0]:g} the projected flows take the centre to {ends['kale']} (KALE) and {ends['mmd']} (MMD)."
        ),
        figures={
            "criterion": "KALE's centre lies within a mode's standard deviation of it with less than 5 percent of the "
            "particles between the modes (|x| < 1), MMD's is nearer to the middle with more than 20 percent there",
            "best_gaussian": fits,
            "projected_flow": flows,
        },
        draw=lambda figure: _draw(figure, y, fits, flows, min(regularizations)),
    )


def _summary(x: Tensor) -> dict[str, float]:
    return {
        "centre": float(x.mean()),
        "width": float(x.std(correction=0)),
        "between": float((x.abs() < MODE / 2).double().mean()),
    }


def _best(divergence: Divergence, num_points: int, grid: int) -> dict[str, float]:
    """Return the Gaussian of a grid where F is lowest."""
    candidates = [
        gaussian(centre, width, num_points)
        for centre in torch.linspace(-1.25 * MODE, 1.25 * MODE, 2 * grid - 1).tolist()
        for width in torch.linspace(0.2, 3.8, grid).tolist()
    ]
    with torch.no_grad():
        values = torch.stack([divergence(x) for x in candidates])
    best = int(values.argmin())
    return {**_summary(candidates[best]), "value": float(values[best])}


def _flow(
    divergence: Divergence,
    start: tuple[float, float],
    num_points: int,
    step_size: float,
    num_steps: int,
    progress: bool,
) -> dict[str, Any]:
    """Flow particles that every step is projected onto Gaussians by their mean and standard deviation."""
    path: list[tuple[float, float]] = [start]

    def project(step: int, x: Tensor) -> Tensor:
        centre, width = float(x.mean()), float(x.std(correction=0))
        if step % max(1, num_steps // PATH) == 0:
            path.append((round(centre, 4), round(width, 4)))
        return gaussian(centre, width, num_points)

    source = gaussian(*start, num_points)
    result = flow(
        divergence,
        source,
        step_size=step_size,
        num_steps=num_steps,
        save_every=Record(evaluate=False),
        callback=project,
        progress=progress,
    )
    return {**_summary(result.particles), "path": path}


def _density(at: Tensor, centre: float, width: float) -> Tensor:
    return torch.exp(-(((at - centre) / width) ** 2) / 2) / (width * (2 * torch.pi) ** 0.5)


def _draw(
    figure: Figure, y: Tensor, fits: dict[str, dict[str, float]], flows: dict[str, list[dict[str, Any]]], lowest: float
) -> None:
    figure.set_size_inches(12, 3.8)
    left, middle, right = figure.subplots(1, 3)
    at = torch.linspace(-6, 6, 400, dtype=torch.float64)
    left.hist(y[:, 0].numpy(), bins=40, density=True, color="0.8", label="target samples")
    for name, label, colour in (("mmd", "MMD", "tab:red"), (f"{lowest:g}", f"KALE, lambda {lowest:g}", "tab:blue")):
        left.plot(at, _density(at, fits[name]["centre"], fits[name]["width"]), c=colour, label=label)
    left.set(title="best Gaussian", xlabel="x", ylabel="density")
    left.legend(frameon=False, fontsize=8)
    lambdas = [name for name in fits if name != "mmd"]
    for key, colour, label in (("centre", "tab:blue", "|centre|"), ("width", "tab:orange", "width")):
        middle.semilogx(
            [float(n) for n in lambdas], [abs(fits[n][key]) for n in lambdas], "o-", c=colour, label=f"KALE: {label}"
        )
        middle.axhline(abs(fits["mmd"][key]), c=colour, ls="--", label=f"MMD: {label}")
    middle.set(title="best Gaussian over lambda", xlabel="lambda")
    middle.legend(frameon=False, fontsize=8)
    for name, colour in (("mmd", "tab:red"), ("kale", "tab:blue")):
        for number, result in enumerate(flows[name]):
            centres, widths = zip(*result["path"], strict=True)
            right.plot(centres, widths, "-", c=colour, label=None if number else name.upper())
            right.plot(centres[-1], widths[-1], "o", c=colour)
    right.plot(*zip(*STARTS, strict=True), "k*", label="sources")
    right.plot([-MODE, MODE], [MODE_WIDTH, MODE_WIDTH], "kx", label="the target's modes")
    right.set(title="flow projected onto Gaussians", xlabel="centre", ylabel="width")
    right.legend(frameon=False, fontsize=8)
