"""DMMD paper, Table 3: further data sets, DMMD against DDPM at 100 evaluations.

The paper has MNIST, CelebA (64x64) and LSUN Church (64x64); the small scale takes digits and, where the files are there,
MNIST and Fashion-MNIST. DMMD and DDPM are trained for the same seconds; in the same folder they are those of Table 1. Small
takes the seconds of its trainings (twice `seconds` a data set) and some minutes of sampling.

The criterion, written down before looking: on every data set DDPM is better than DMMD by more than two standard errors of
the paired differences over draws. The table's Discriminator flow and MMD-GAN are compared by `mmdflow compare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdflow.evaluation.distance import DistanceJudge
from mmdflow.studies._models import Measured, lower, walk_of
from mmdflow.studies._study import FULL, SMALL, Results, TableStudy
from mmdflow.studies._tables import NONE, NOT_AT_HAND, markdown, show_samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "DMMD paper, Table 3: further data sets, DMMD against DDPM"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {
    "small": SMALL | {"draws": 2, "seconds": 60.0},
    "full": FULL | {"data": ["mnist", "celeba64", "church64"], "num_samples": None, "seconds": None},
}


@dataclass(frozen=True, kw_only=True)
class Table3(TableStudy):
    """DMMD and DDPM on further data sets.

    Attributes:
        seconds: of training of every model; as many steps as each recipe says when None.
    """

    seconds: float | None
    claim = (
        "DMMD paper, Table 3 and section 7: on MNIST, CelebA (64x64) and LSUN Church (64x64) DMMD, at 100 gradient steps, "
        "underperforms compared to DDPM"
    )

    def rows(self, name: str, judge: DistanceJudge) -> tuple[dict[str, Measured], dict[str, Any]]:
        """Return the distances of both models, and their seconds of training."""
        dmmd, ddpm = (self.trained(f"{system}-{name}", seconds=self.seconds) for system in ("dmmd", "ddpm"))
        rows = {
            "DMMD": self.measure(dmmd, judge, sampler="exact", **walk_of(dmmd.defaults, 102)),
            "DDPM": self.measure(ddpm, judge, num_levels=100),
        }
        seconds = {
            system: round(model.provenance["train_seconds"]) for system, model in (("DMMD", dmmd), ("DDPM", ddpm))
        }
        return rows, {"num_samples": self.count(judge), "training_seconds": seconds}

    def criteria(self, tables: Mapping[str, Results[str]]) -> dict[str, bool]:
        """Return on which data sets DDPM is better."""
        return {name: lower(table["DDPM"], table["DMMD"]) for name, table in tables.items()}

    def seen(self, criteria: Mapping[str, bool], missing: str) -> bool:
        """Return whether the claim, which is about three data sets, was seen."""
        return all(criteria.values()) and not missing

    def finding(self, tables: Mapping[str, Results[str]], criteria: Mapping[str, bool]) -> str:
        """Return where DDPM is better, and all distances."""
        distances = "; ".join(
            f"{table.judge.unit}: "
            + ", ".join(
                f"{system} {m} ({table.facts['training_seconds'][system]} s)" for system, m in table.rows.items()
            )
            + f", held-out images {table.held_out_text}"
            for table in tables.values()
        )
        better = [name for name, holds in criteria.items() if holds]
        return f"DDPM is better than DMMD on {', '.join(better) or 'none'} of {', '.join(tables)}. {distances}."

    def table(self, tables: Mapping[str, Results[str]]) -> str:
        """Return a row for each data set."""
        lines: list[list[object]] = []
        for table in tables.values():
            distances = [str(table[system]) for system in ("DMMD", "DDPM")]
            seconds = table.facts["training_seconds"].values()
            lines.append([table.judge.unit, *distances, table.held_out_text, *seconds, NONE])
        comparable = all(table.judge.fid for table in tables.values())
        head = ["data, measure", "DMMD, NFE 100", "DDPM, NFE 100", "held-out images", "seconds of DMMD's training"]
        head += ["of DDPM's", "published FID" + ("" if comparable else " (not comparable)")]
        return f"{markdown(head, lines)}\n\n{NOT_AT_HAND}"

    def draw(self, figure: Figure, tables: Mapping[str, Results[str]]) -> None:
        """Draw samples of both models, a data set a column."""
        figure.set_size_inches(4 * len(tables), 8)
        axes = figure.subplots(2, len(tables), squeeze=False)
        for column, (name, table) in enumerate(tables.items()):
            for line, (system, measured) in enumerate(table.rows.items()):
                show_samples(axes[line, column], measured.samples, f"{name}, {system}: {measured}")


run = Table3.run
