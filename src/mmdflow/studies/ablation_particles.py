r"""DMMD paper, section 5 and appendix F: the number of particles N_p, and the exact flow against the approximate one.

The exact velocity uses the mean feature of N_p particles, the approximate one that of all noised data (eq. 13). Their
difference at z is J_phi(z)^T (1/N_p sum phi(Z_i) - mean phi(X_t)): for particles drawn from P_t it falls as N_p^(-1/2). This
is measured with noised training images for particles, at several noise levels and fixed points z ~ P_t, as root mean square
relative to the approximate velocity. Then whole samples: the exact sampler in runs of N_p particles, against the approximate
one.

The criteria, written down before looking: (1) the log-log slope of the difference lies within 0.1 of -1/2 at every level;
(2) samples of one particle at a time are worse than those of 200 together by more than two standard errors of the paired
differences over draws; (3) the most particles together are not better than 200 by as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow._tensors import normal_like
from mmdflow.evaluation.distance import open_judge
from mmdflow.methods.dmmd import DMMDPipeline, TargetMeans
from mmdflow.recipe import DataSpec
from mmdflow.recipe.data import judged_data
from mmdflow.studies._fits import log_slope
from mmdflow.studies._models import Measured, lower, measure, or_none, own_or_shipped
from mmdflow.studies._tables import NONE, markdown, published, shown_distance
from mmdflow.studies.base import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "DMMD paper, section 5: the number of particles, exact against approximate flow"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "features": "own",
        "data": "digits",
        "levels": [0.2, 0.5, 0.8],
        "rate_particles": [1, 4, 16, 64, 256, 1024, 4096],
        "repeats": 20,
        "points": 64,
        "particles": [1, 3, 10, 50, 200, 1000],
        "num_samples": 359,
        "draws": 2,
    },
    "full": {
        "features": "inception",
        "data": "cifar10",
        "levels": [0.2, 0.5, 0.8],
        "rate_particles": [1, 4, 16, 64, 256, 1024, 4096],
        "repeats": 20,
        "points": 64,
        "particles": [1, 10, 50, 100, 200, 500, 1000],
        "num_samples": 10_000,
        "draws": 1,
    },
}

#: The paper's N_p, the slope to find and how near.
USUAL, SLOPE, TOLERANCE = 200, -0.5, 0.1

CLAIM = (
    "DMMD paper, section 5: sampling depends on the number of particles; for a sufficiently large one the mean feature of the "
    "particles is about that of the noised data, so that particles can be sampled independently"
)


def run(
    *,
    features: str,
    data: str,
    levels: Sequence[float],
    rate_particles: Sequence[int],
    repeats: int,
    points: int,
    particles: Sequence[int],
    num_samples: int,
    draws: int,
    runs: Path,
    seed: int,
    progress: bool,
) -> Outcome:
    """Measure the velocities' difference, then sample with every N_p.

    Args:
        features: that samples are judged by, as `open_judge` takes them.
        data: the data set.
        levels: noise levels of the difference.
        rate_particles: numbers of particles of the difference.
        repeats: draws of particles, of which the root mean square is taken.
        points: points z.
        particles: numbers of particles of a run of samples; 200 among them.
        num_samples: samples of a draw.
        draws: draws of samples a row.
        runs: folder of the model, where none is shipped.
        seed: of training, particles and sampling.
        progress: show bars.
    """
    judge = open_judge(data, features, progress=progress)
    found, source = own_or_shipped(data, runs, seed=seed, progress=progress)
    assert isinstance(found, DMMDPipeline)
    clean = judged_data(DataSpec(data)).train
    differences = {
        t: velocity_differences(found, clean, t, rate_particles, repeats, points, seed)
        for t in tqdm(levels, disable=not progress, desc="velocities", unit="level")
    }
    slopes = {t: log_slope([float(n) for n in rate_particles], values) for t, values in differences.items()}
    how: dict[str, Any] = {"num_samples": num_samples, "draws": draws, "seed": seed}
    rows = {n: measure(found, judge, **how, particles=n, sampler="exact") for n in particles}
    approximate = measure(found, judge, **how, particles=num_samples, sampler="approximate")
    held_out = judge.held_out(num_samples)
    criteria = {
        "the difference falls as N_p^-1/2": all(abs(s - SLOPE) <= TOLERANCE for s in slopes.values()),
        "one particle is worse than 200": lower(rows[USUAL], rows[particles[0]]),
        "more than 200 do not help": not lower(rows[particles[-1]], rows[USUAL]),
    }
    shown = ", ".join(f"{n}: {row}" for n, row in rows.items())
    finding = (
        "The difference of exact and approximate velocity goes as N_p to the power "
        + ", ".join(f"{slope:.2f} (t = {t:g})" for t, slope in slopes.items())
        + f", and is {min(v[-1] for v in differences.values()):.2g} to {max(v[-1] for v in differences.values()):.2g} of the "
        f"velocity at N_p = {rate_particles[-1]}. {judge.unit} by N_p: {shown}; approximate {approximate}; held-out images "
        f"{shown_distance(held_out)}; {source}. "
        + "; ".join(f"{k}: {'seen' if v else 'not seen'}" for k, v in criteria.items())
        + "."
    )
    figures = {
        "criteria": criteria,
        "model": source,
        "judge": judge.name,
        "held_out": or_none(held_out),
        "relative_differences": {f"t = {t:g}": values for t, values in differences.items()},
        "slopes": {f"t = {t:g}": slope for t, slope in slopes.items()},
        "rows": {f"N_p = {n}": row.plain for n, row in rows.items()},
        "approximate": approximate.plain,
    }
    lines: list[list[object]] = [[n, str(row), 8.31 if n == USUAL else NONE] for n, row in rows.items()]
    lines += [["approximate", str(approximate), NONE], ["held-out images", shown_distance(held_out), NONE]]
    table = markdown(["N_p", judge.unit, published(judge) + ", NFE 100"], lines)
    return Outcome(
        CLAIM,
        all(criteria.values()),
        finding,
        figures,
        lambda figure: _draw(figure, rate_particles, differences, rows, approximate, judge.unit, held_out),
        table,
    )


def velocity_differences(
    pipeline: DMMDPipeline,
    clean: Tensor,
    t: float,
    counts: Sequence[int],
    repeats: int,
    points: int,
    seed: int,
) -> list[float]:
    """Return, for every number of particles, the root mean square of exact minus approximate velocity over that of the latter.

    The particles are noised training images; so are the points z at which velocities are compared.
    """
    means = pipeline.means
    assert isinstance(means, TargetMeans)
    generator = torch.Generator().manual_seed(seed)
    device = next(pipeline.features.parameters()).device
    kernel = pipeline.kernel.at(t)

    def noised(n: int) -> Tensor:
        x = clean[torch.randint(len(clean), (n,), generator=generator)].to(device) * pipeline.data_scale
        return pipeline.schedule.add_noise(x, normal_like(x, generator), x.new_full((n,), t))

    at_clean, at_noisy = means.at(t)
    z = noised(points).requires_grad_()

    def velocity(direction: Tensor) -> Tensor:
        """Return J_phi(z)^T direction."""
        return torch.autograd.grad((kernel.embed(z) @ direction).sum(), z)[0]

    scale = float(velocity(at_noisy - at_clean).square().mean().sqrt())
    rows = []
    for n in counts:
        squares = []
        for _ in range(repeats):
            with torch.no_grad():
                mean = torch.cat([kernel.embed(noised(len(part))) for part in torch.arange(n).split(256)]).mean(0)
            squares.append(float(velocity(mean - at_noisy).square().mean()))
        rows.append((sum(squares) / repeats) ** 0.5 / scale)
    return rows


def _draw(
    figure: Figure,
    counts: Sequence[int],
    differences: dict[float, list[float]],
    rows: dict[int, Measured],
    approximate: Measured,
    unit: str,
    held_out: float,
) -> None:
    figure.set_size_inches(11, 4.5)
    left, right = figure.subplots(1, 2)
    for t, values in differences.items():
        left.loglog(counts, values, "o-", label=f"t = {t:g}")
    first = max(values[0] for values in differences.values())
    left.loglog(counts, [first * (n / counts[0]) ** SLOPE for n in counts], "k:", lw=1, label="N_p^(-1/2)")
    left.set(xlabel="N_p", ylabel="|exact - approximate| / |approximate| velocity")
    left.legend(frameon=False)
    errors = [m.bar for m in rows.values()]
    right.errorbar(list(rows), [m.mean for m in rows.values()], yerr=errors, marker="o", capsize=3, label="exact")
    right.axhline(approximate.mean, color="tab:orange", label="approximate")
    right.axhline(held_out, color="0.3", ls="--", lw=1, label="held-out images")
    right.set(xscale="log", yscale="log", xlabel="N_p", ylabel=f"{unit} (± 2 standard errors)")
    right.legend(frameon=False)
