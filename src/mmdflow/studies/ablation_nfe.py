"""DMMD paper, section 7 and appendix G: the number of evaluations T x N_s, noise levels T times flow steps a level N_s.

The small scale samples the shipped digits model, the full scale the model of dmmd-cifar10; the model's final steps, if it
has any, come on top. Where the step size is not constant the walk along a level is divided among its N_s steps, so that all
cells walk as far.

The criteria, written down before looking: (1) with one step a level the fewest levels are worse than 100 by more than two
standard errors of the paired differences over draws; (2) no cell of more than 250 evaluations is better by as much than the
best of at most 250.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdflow.evaluation.distance import DistanceJudge
from mmdflow.studies._models import Measured, lower, walk
from mmdflow.studies._study import FULL_ABLATION, SMALL_ABLATION, AblationStudy, Results
from mmdflow.studies._tables import NONE, distance_axis, markdown, published
from mmdflow.studies.base import criteria_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "DMMD paper, appendix G: the number of evaluations, noise levels times steps a level"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {
    "small": SMALL_ABLATION | {"levels": [5, 10, 25, 50, 100, 250], "steps": [1, 2, 4], "draws": 3},
    "full": FULL_ABLATION | {"levels": [25, 50, 100, 250, 500], "steps": [1, 2, 4]},
}

#: NFE past which the paper sees no improvement, and the number of levels that the fewest are compared with.
ENOUGH, USUAL = 250, 100
#: Published FID by NFE.
FIDS = {100: 8.31, 250: 7.74}
#: Noise levels T and steps a level N_s.
Cell = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class NFEAblation(AblationStudy[Cell]):
    """Every cell of a grid of levels and steps a level.

    Attributes:
        levels: numbers of noise levels T, increasing; 100 among them.
        steps: numbers of steps a level N_s, increasing; 1 among them.
    """

    levels: Sequence[int]
    steps: Sequence[int]
    claim = (
        "DMMD paper, section 7 (Table 6 of its appendix): FID improves as the NFE increases, but only up to a point "
        "(NFE = 250)"
    )

    def rows(self, judge: DistanceJudge) -> tuple[dict[Cell, Measured], dict[str, Any]]:
        """Return the distances of all cells, and where the model is from."""
        pipeline, source = self.own_or_shipped(self.data)
        cells = {
            (t, s): self.measure(pipeline, judge, sampler="exact", **walk(pipeline.defaults, t, s))
            for s in self.steps
            for t in self.levels
        }
        return cells, {"model": source}

    def criteria(self, results: Results[Cell]) -> dict[str, bool]:
        """Return whether more evaluations help up to the usual number, and not past 250."""
        best = _best_of_enough(results)
        many = [m for (t, s), m in results.rows.items() if t * s > ENOUGH]
        return {
            "improves up to the usual": lower(results[USUAL, 1], results[self.levels[0], 1]),
            "does not improve past 250": not any(lower(m, best) for m in many),
        }

    def fewest_not_worse(self, results: Results[Cell]) -> int:
        """Return the fewest levels, a step each, that are not worse than the usual number."""
        return next(t for t in self.levels if not lower(results[USUAL, 1], results[t, 1]))

    def finding(self, results: Results[Cell], criteria: Mapping[str, bool]) -> str:
        """Return the distances along one step a level, the best cells and the criteria."""
        along = ", ".join(f"{t}: {results[t, 1]}" for t in self.levels)
        t, s = min(results.rows, key=lambda cell: results[cell].mean)
        return (
            f"{results.judge.unit} by T with one step a level: {along}; from T = {self.fewest_not_worse(results)} on it is not "
            f"worse than at {USUAL}; the best cell is T = {t}, N_s = {s} ({results[t, s]}), the best of at most {ENOUGH} "
            f"evaluations {_best_of_enough(results)}; held-out images {results.held_out_text}; {results.facts['model']}. "
            f"{criteria_sentence(criteria)}"
        )

    def figures(self, results: Results[Cell]) -> dict[str, Any]:
        """Return the cells, and what follows from them."""
        return {
            "model": results.facts["model"],
            "fewest_levels_not_worse": self.fewest_not_worse(results),
            "cells": {f"T = {t}, N_s = {s}": m.plain for (t, s), m in results.rows.items()},
        }

    def table(self, results: Results[Cell]) -> str:
        """Return a row for each T, a column for each N_s."""
        lines: list[list[object]] = [
            [t, *(str(results[t, s]) for s in self.steps), FIDS.get(t, NONE)] for t in self.levels
        ]
        head = ["T", *(f"{results.judge.unit}, N_s = {s}" for s in self.steps), f"{published(results.judge)}, NFE = T"]
        return markdown(head, lines)

    def draw(self, figure: Figure, results: Results[Cell]) -> None:
        """Draw a line for each N_s."""
        figure.set_size_inches(7, 4.5)
        ax = figure.subplots()
        for s in self.steps:
            row = [results[t, s] for t in self.levels]
            means, errors = [m.mean for m in row], [m.bar for m in row]
            ax.errorbar([m.nfe for m in row], means, yerr=errors, marker="o", capsize=3, label=f"N_s = {s}")
        ax.axvline(ENOUGH, color="0.8", lw=1)
        ax.set(xscale="log", ylim=(0, None), xlabel="NFE")
        distance_axis(ax, results.judge.unit, results.held_out)


def _best_of_enough(results: Results[Cell]) -> Measured:
    """Return the best cell of at most 250 evaluations."""
    return min((m for (t, s), m in results.rows.items() if t * s <= ENOUGH), key=lambda m: m.mean)


run = NFEAblation.run
