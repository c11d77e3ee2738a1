"""DMMD paper, Table 3: further data sets, DMMD against DDPM at 100 evaluations.

The paper has MNIST, CelebA (64x64) and LSUN Church (64x64); the small scale takes digits and, where the files are there,
MNIST and Fashion-MNIST. DMMD and DDPM are trained for the same seconds; in the same folder they are those of Table 1. Small
takes the seconds of its trainings (twice `seconds` a data set) and some minutes of sampling.

The criterion, written down before looking: on every data set DDPM is better than DMMD by more than two standard errors of
the paired differences over draws. The table's Discriminator flow and MMD-GAN are compared by `mmdflow compare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdflow.evaluation.distance import open_judges
from mmdflow.runs.cache import trained
from mmdflow.studies._models import Measured, lower, measure, table_figures
from mmdflow.studies._tables import NONE, NOT_AT_HAND, markdown, show_samples, shown_distance
from mmdflow.studies.base import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "DMMD paper, Table 3: further data sets, DMMD against DDPM"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "features": "own",
        "data": ["digits", "mnist", "fashion"],
        "seconds": 60.0,
        "num_samples": 359,
        "draws": 2,
        "particles": 359,
    },
    "full": {
        "features": "inception",
        "data": ["mnist", "celeba64", "church64"],
        "seconds": None,
        "num_samples": None,
        "draws": 1,
        "particles": 200,
    },
}

CLAIM = (
    "DMMD paper, Table 3 and section 7: on MNIST, CelebA (64x64) and LSUN Church (64x64) DMMD, at 100 gradient steps, "
    "underperforms compared to DDPM"
)


def run(
    *,
    features: str,
    data: Sequence[str],
    seconds: float | None,
    num_samples: int | None,
    draws: int,
    particles: int,
    runs: Path,
    seed: int,
    progress: bool,
) -> Outcome:
    """Train what is missing, sample, judge.

    Args:
        features: that samples are judged by, as `open_judge` takes them.
        data: names of the data sets; those whose files are missing are left out, and named.
        seconds: of training of every model; as many steps as each recipe says when None.
        num_samples: samples of a draw; as many as the data set's protocol says when None.
        draws: draws of samples a row.
        particles: that flow together; the paper has 200.
        runs: folder of the trained models.
        seed: of training and sampling.
        progress: show bars.

    Raises:
        InputError: if the files of all data sets are missing.
    """
    judges, missing = open_judges(data, features, progress=progress)
    counts = {name: judge.num_samples if num_samples is None else num_samples for name, judge in judges.items()}
    rows: dict[str, dict[str, Measured]] = {}
    spent = {}
    for name, judge in judges.items():
        own, ddpm = (
            trained(f"{system}-{name}", runs, seed=seed, progress=progress, seconds=seconds)
            for system in ("dmmd", "ddpm")
        )
        spent[name] = [round(model.provenance["train_seconds"]) for model in (own, ddpm)]
        how: dict[str, Any] = {"num_samples": counts[name], "draws": draws, "particles": particles, "seed": seed}
        rows[name] = {
            "DMMD": measure(own, judge, **how, sampler="exact", num_levels=100 - own.defaults.final_steps),
            "DDPM": measure(ddpm, judge, **how, num_levels=100),
        }
    held_out = {name: judge.held_out(counts[name]) for name, judge in judges.items()}
    criteria = {name: lower(row["DDPM"], row["DMMD"]) for name, row in rows.items()}
    shown = "; ".join(
        f"{judges[name].unit}: DMMD {row['DMMD']} ({spent[name][0]} s), DDPM {row['DDPM']} "
        f"({spent[name][1]} s), held-out images {shown_distance(held_out[name])}"
        for name, row in rows.items()
    )
    better = [name for name, holds in criteria.items() if holds]
    finding = f"DDPM is better than DMMD on {', '.join(better) or 'none'} of {', '.join(rows)}. {shown}.{missing}"
    figures = {
        "criteria": criteria,
        "num_samples": counts,
        "training_seconds": {name: dict(zip(("DMMD", "DDPM"), s, strict=True)) for name, s in spent.items()},
        **table_figures(data, judges, held_out, rows),
    }
    lines: list[list[object]] = [
        [
            judges[name].unit,
            str(row["DMMD"]),
            str(row["DDPM"]),
            shown_distance(held_out[name]),
            *spent[name],
            NONE,
        ]
        for name, row in rows.items()
    ]
    head = [
        "data, measure",
        "DMMD, NFE 100",
        "DDPM, NFE 100",
        "held-out images",
        "seconds of DMMD's training",
        "of DDPM's",
        "published FID" + ("" if all(judge.fid for judge in judges.values()) else " (not comparable)"),
    ]
    table = markdown(head, lines) + "\n\n" + NOT_AT_HAND
    seen = all(criteria.values()) and not missing  # a claim about three data sets
    return Outcome(CLAIM, seen, finding, figures, lambda figure: _draw(figure, rows), table)


def _draw(figure: Figure, rows: dict[str, dict[str, Measured]]) -> None:
    figure.set_size_inches(4 * len(rows), 8)
    axes = figure.subplots(2, len(rows), squeeze=False)
    for column, (name, row) in enumerate(rows.items()):
        for line, (system, measured) in enumerate(row.items()):
            show_samples(axes[line, column], measured.samples, f"{name}, {system}: {measured}")
