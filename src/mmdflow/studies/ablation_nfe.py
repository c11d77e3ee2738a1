"""DMMD paper, section 7 and appendix G: the number of evaluations T x N_s, noise levels T times flow steps a level N_s.

The small scale samples the shipped digits model, the full scale the model of dmmd-cifar10; the model's final steps, if it
has any, come on top. Where the step size is not constant the walk along a level is divided among its N_s steps, so that all
cells walk as far.

The criteria, written down before looking: (1) with one step a level the fewest levels are worse than 100 by more than two
standard errors of the paired differences over draws; (2) no cell of more than 250 evaluations is better by as much than the
best of at most 250.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdflow.evaluation.distance import open_judge
from mmdflow.studies._models import Measured, lower, measure, or_none, own_or_shipped
from mmdflow.studies._tables import NONE, markdown, published, shown_distance
from mmdflow.studies.base import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "DMMD paper, appendix G: the number of evaluations, noise levels times steps a level"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "features": "own",
        "data": "digits",
        "levels": [5, 10, 25, 50, 100, 250],
        "steps": [1, 2, 4],
        "num_samples": 359,
        "draws": 3,
        "particles": 359,
    },
    "full": {
        "features": "inception",
        "data": "cifar10",
        "levels": [25, 50, 100, 250, 500],
        "steps": [1, 2, 4],
        "num_samples": 10_000,
        "draws": 1,
        "particles": 200,
    },
}

#: NFE past which the paper sees no improvement, and the number of levels that the fewest are compared with.
ENOUGH, USUAL = 250, 100

CLAIM = "DMMD paper, section 7 (Table 6 of its appendix): FID improves as the NFE increases, but only up to a point (NFE = 250)"
#: Published FID by NFE.
FIDS = {100: 8.31, 250: 7.74}


def run(
    *,
    features: str,
    data: str,
    levels: Sequence[int],
    steps: Sequence[int],
    num_samples: int,
    draws: int,
    particles: int,
    runs: Path,
    seed: int,
    progress: bool,
) -> Outcome:
    """Sample every cell of the grid, judge.

    Args:
        features: that samples are judged by, as `open_judge` takes them.
        data: the data set.
        levels: numbers of noise levels T, increasing; 100 among them.
        steps: numbers of steps a level N_s, increasing; 1 among them.
        num_samples: samples of a draw.
        draws: draws of samples a cell.
        particles: that flow together; the paper has 200.
        runs: folder of the model, where none is shipped.
        seed: of training and sampling.
        progress: show bars.
    """
    judge = open_judge(data, features, progress=progress)
    pipeline, source = own_or_shipped(data, runs, seed=seed, progress=progress)
    cells = {
        (t, s): measure(
            pipeline,
            judge,
            num_samples=num_samples,
            draws=draws,
            particles=particles,
            seed=seed,
            sampler="exact",
            num_levels=t,
            steps_per_level=s,
        )
        for s in steps
        for t in levels
    }
    held_out = judge.held_out(num_samples)
    few = [m for (t, s), m in cells.items() if t * s <= ENOUGH]
    best = min(few, key=lambda m: m.mean)
    criteria = {
        "improves up to the usual": lower(cells[USUAL, 1], cells[levels[0], 1]),
        "does not improve past 250": not any(lower(m, best) for (t, s), m in cells.items() if t * s > ENOUGH),
    }
    along = ", ".join(f"{t}: {cells[t, 1]}" for t in levels)
    enough = next(t for t in levels if not lower(cells[USUAL, 1], cells[t, 1]))
    cell = min(cells, key=lambda key: cells[key].mean)
    finding = (
        f"{judge.unit} by T with one step a level: {along}; from T = {enough} on it is not worse than at "
        f"{USUAL}; the best cell is T = {cell[0]}, N_s = {cell[1]} ({cells[cell]}), the best of at most "
        f"{ENOUGH} evaluations {best}; held-out images {shown_distance(held_out)}; {source}. "
        + "; ".join(f"{name}: {'seen' if holds else 'not seen'}" for name, holds in criteria.items())
        + "."
    )
    figures = {
        "criteria": criteria,
        "model": source,
        "judge": judge.name,
        "held_out": or_none(held_out),
        "fewest_levels_not_worse": enough,
        "cells": {f"T = {t}, N_s = {s}": m.plain for (t, s), m in cells.items()},
    }
    lines: list[list[object]] = [[t, *(str(cells[t, s]) for s in steps), FIDS.get(t, NONE)] for t in levels]
    head = ["T", *(f"{judge.unit}, N_s = {s}" for s in steps), f"{published(judge)}, NFE = T"]
    table = markdown(head, lines)
    return Outcome(
        CLAIM,
        all(criteria.values()),
        finding,
        figures,
        lambda figure: _draw(figure, cells, levels, steps, judge.unit, held_out),
        table,
    )


def _draw(
    figure: Figure,
    cells: dict[tuple[int, int], Measured],
    levels: Sequence[int],
    steps: Sequence[int],
    unit: str,
    held_out: float,
) -> None:
    figure.set_size_inches(7, 4.5)
    ax = figure.subplots()
    for s in steps:
        row = [cells[t, s] for t in levels]
        errors = [m.bar for m in row]
        ax.errorbar([m.nfe for m in row], [m.mean for m in row], yerr=errors, marker="o", capsize=3, label=f"N_s = {s}")
    ax.axhline(held_out, color="0.3", ls="--", lw=1, label="held-out images")
    ax.axvline(ENOUGH, color="0.8", lw=1)
    ax.set(xscale="log", ylim=(0, None), xlabel="NFE", ylabel=f"{unit} (± 2 standard errors)")
    ax.legend(frameon=False)
