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

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdflow.evaluation.distance import open_judges
from mmdflow.studies._models import Measured, lower, measure, own_or_shipped, table_figures
from mmdflow.studies._tables import NONE, NOT_AT_HAND, compare_rows, markdown, published, shown_distance
from mmdflow.studies.base import Outcome, told

TITLE = "DMMD paper, Table 2: approximate sampling and final denoising steps"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "features": "own",
        "data": ["digits", "mnist", "fashion"],
        "num_samples": 359,
        "draws": 5,
        "particles": 359,
    },
    "full": {"features": "inception", "data": ["cifar10"], "num_samples": 50_000, "draws": 1, "particles": 200},
}

CLAIM = (
    "DMMD paper, Table 2 and section 7: a-DMMD performs worse than DMMD; a denoising step brings it closer (a-DMMD-e); denoising "
    "helps DMMD only marginally (DMMD-e)"
)
ROWS = ("DMMD", "a-DMMD", "a-DMMD-a", "a-DMMD-e", "DMMD-e")


def run(
    *,
    features: str,
    data: Sequence[str],
    num_samples: int,
    draws: int,
    particles: int,
    runs: Path,
    seed: int,
    progress: bool,
) -> Outcome:
    """Sample the five ways, judge.

    Args:
        features: that samples are judged by, as `open_judge` takes them.
        data: the data sets; those whose files are missing are left out, and named.
        num_samples: samples of a draw.
        draws: draws of samples a row.
        particles: that flow together; the paper has 200.
        runs: folder of the models, where none is shipped.
        seed: of training and sampling.
        progress: show bars.

    Raises:
        InputError: if the files of all data sets are missing.
    """
    judges, missing = open_judges(data, features, progress=progress)
    rows: dict[str, dict[str, Measured]] = {}
    sources = {}
    for name, judge in judges.items():
        pipeline, sources[name] = own_or_shipped(name, runs, seed=seed, progress=progress)
        rows[name] = {
            row: measure(
                pipeline,
                judge,
                num_samples=num_samples,
                draws=draws,
                particles=particles,
                seed=seed,
                sampler=row.lower(),
                final_steps=2 if row[-2:] in ("-a", "-e") else 0,
            )
            for row in ROWS
        }
    held_out = {name: judge.held_out(num_samples) for name, judge in judges.items()}
    criteria = {f"{name}, {what}": holds for name, found in rows.items() for what, holds in judged(found).items()}
    orders = {name: sorted(found, key=lambda row: found[row].mean) for name, found in rows.items()}
    shown = "; ".join(
        f"{judges[name].unit}, from best to worst {', '.join(f'{row} {rows[name][row]}' for row in order)}, held-out images "
        f"{shown_distance(held_out[name])} ({sources[name]})"
        for name, order in orders.items()
    )
    figures = {
        "criteria": criteria,
        "orders": orders,
        "models": sources,
        **table_figures(data, judges, held_out, rows),
    }
    first = next(iter(rows.values()))
    lines: list[list[object]] = [
        [row, first[row].nfe, *(str(found[row]) for found in rows.values()), 8.31 if row == "DMMD" else NONE]
        for row in ROWS
    ]
    lines.append(["held-out images", NONE, *map(shown_distance, held_out.values()), NONE])
    table = (
        markdown(["sampler", "NFE", *(judge.unit for judge in judges.values()), published(*judges.values())], lines)
        + "\n\n"
        + NOT_AT_HAND
        + " DMMD's is Table 1's, at 100 evaluations."
    )
    return Outcome(
        CLAIM,
        all(criteria.values()),
        f"{told(criteria)} {draws} draws of {num_samples}. {shown}.{missing}",
        figures,
        lambda figure: compare_rows(figure, rows, judges, held_out, ("DMMD", "a-DMMD", "a-DMMD-e")),
        table,
    )


def judged(rows: dict[str, Measured]) -> dict[str, bool]:
    """Return which of the three criteria hold."""
    mean = {name: row.mean for name, row in rows.items()}
    gap, gain = mean["a-DMMD"] - mean["DMMD"], mean["a-DMMD"] - mean["a-DMMD-e"]
    return {
        "a-DMMD is worst": max(mean, key=mean.__getitem__) == "a-DMMD" and lower(rows["DMMD"], rows["a-DMMD"]),
        "a-DMMD-e closes the gap": lower(rows["a-DMMD-e"], rows["a-DMMD"])
        and abs(mean["a-DMMD-e"] - mean["DMMD"]) <= gap / 2,
        "DMMD-e gains little": mean["DMMD"] - mean["DMMD-e"] < gain / 2,
    }
