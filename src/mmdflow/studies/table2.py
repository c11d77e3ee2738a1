"""DMMD paper, Table 2: approximate sampling, and denoising steps at the end.

The small scale samples the shipped models of digits and, where the files are there, MNIST and Fashion-MNIST, the full scale
the model of dmmd-cifar10. Where the model's defaults have a level and a step size for final steps they are used in every row
that has such steps. Draw i starts from the same noise in every row.

The criteria, written down before looking and asked of every data set: (1) a-DMMD has the largest mean of the five and is
worse than DMMD by more than two standard errors of the paired differences; (2) a-DMMD-e is better than a-DMMD by as much, and
the distance that is left between it and DMMD is at most half of a-DMMD's; (3) what DMMD-e gains over DMMD is less than half
of what a-DMMD-e gains over a-DMMD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdflow.evaluation.distance import DistanceJudge
from mmdflow.studies._models import Measured, lower
from mmdflow.studies._study import FULL, SMALL, Results, TableStudy
from mmdflow.studies._tables import NONE, NOT_AT_HAND, compare_rows, markdown, published
from mmdflow.studies.base import criteria_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "DMMD paper, Table 2: approximate sampling and final denoising steps"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {"small": SMALL | {"draws": 5}, "full": FULL}
ROWS = ("DMMD", "a-DMMD", "a-DMMD-a", "a-DMMD-e", "DMMD-e")


@dataclass(frozen=True, kw_only=True)
class Table2(TableStudy):
    """One model, sampled in five ways."""

    claim = (
        "DMMD paper, Table 2 and section 7: a-DMMD performs worse than DMMD; a denoising step brings it closer (a-DMMD-e); "
        "denoising helps DMMD only marginally (DMMD-e)"
    )

    def rows(self, name: str, judge: DistanceJudge) -> tuple[dict[str, Measured], dict[str, Any]]:
        """Return the distances of the samplers, and where the model is from."""
        pipeline, source = self.own_or_shipped(name)
        rows = {}
        for row in ROWS:
            final_steps = 2 if row[-2:] in ("-a", "-e") else 0
            rows[row] = self.measure(pipeline, judge, sampler=row.lower(), final_steps=final_steps)
        return rows, {"models": source}

    def criteria(self, tables: Mapping[str, Results[str]]) -> dict[str, bool]:
        """Return which of the three criteria hold, for each data set."""
        return {
            f"{name}, {criterion}": holds
            for name, table in tables.items()
            for criterion, holds in judged(table.rows).items()
        }

    def figures(self, tables: Mapping[str, Results[str]]) -> dict[str, Any]:
        """Return the samplers from best to worst."""
        return {"orders": {name: _order(table) for name, table in tables.items()}}

    def finding(self, tables: Mapping[str, Results[str]], criteria: Mapping[str, bool]) -> str:
        """Return the criteria, and the samplers from best to worst."""
        orders = "; ".join(
            f"{table.judge.unit}, from best to worst {', '.join(f'{row} {table[row]}' for row in _order(table))}, held-out "
            f"images {table.held_out_text} ({table.facts['models']})"
            for table in tables.values()
        )
        return f"{criteria_sentence(criteria)} {self.draws} draws of {self.num_samples}. {orders}."

    def table(self, tables: Mapping[str, Results[str]]) -> str:
        """Return a row for each sampler."""
        first, judges = next(iter(tables.values())), [table.judge for table in tables.values()]
        lines: list[list[object]] = [
            [row, first[row].nfe, *(str(table[row]) for table in tables.values()), 8.31 if row == "DMMD" else NONE]
            for row in ROWS
        ]
        lines.append(["held-out images", NONE, *(table.held_out_text for table in tables.values()), NONE])
        head = ["sampler", "NFE", *(judge.unit for judge in judges), published(*judges)]
        return f"{markdown(head, lines)}\n\n{NOT_AT_HAND} DMMD's is Table 1's, at 100 evaluations."

    def draw(self, figure: Figure, tables: Mapping[str, Results[str]]) -> None:
        """Draw bars of all rows and samples of three."""
        compare_rows(figure, tables, ("DMMD", "a-DMMD", "a-DMMD-e"))


def judged(rows: Mapping[str, Measured]) -> dict[str, bool]:
    """Return which of the three criteria hold."""
    mean = {name: row.mean for name, row in rows.items()}
    gap, gain = mean["a-DMMD"] - mean["DMMD"], mean["a-DMMD"] - mean["a-DMMD-e"]
    return {
        "a-DMMD is worst": max(mean, key=mean.__getitem__) == "a-DMMD" and lower(rows["DMMD"], rows["a-DMMD"]),
        "a-DMMD-e closes the gap": lower(rows["a-DMMD-e"], rows["a-DMMD"])
        and abs(mean["a-DMMD-e"] - mean["DMMD"]) <= gap / 2,
        "DMMD-e gains little": mean["DMMD"] - mean["DMMD-e"] < gain / 2,
    }


def _order(table: Results[str]) -> list[str]:
    return sorted(table.rows, key=lambda row: table[row].mean)


run = Table2.run
