"""DMMD paper, Table 1: DMMD against DDPM on CIFAR-10, at 100 and 250 gradient steps.

The small scale takes digits of 8x8 and, where the files are there, MNIST and Fashion-MNIST: every model of a data set is
trained for the same seconds on the same device, which takes about three quarters of an hour of a core, sampling included.
Networks are the same but for their read-outs. The full scale is CIFAR-10 with the recipes named after it, judged by FID; the
small scale's measure is no FID (see `DataJudge`), so there the published figures stand beside for their order only. Methods that
are not trained here have published figures alone; `mmdflow compare` trains them too.

The criteria, written down before looking and asked of every data set, hold for the paper's own recipe, since the claim is the
paper's: (1) DDPM with 100 evaluations is better than DMMD with 100, (2) DMMD with 250 is better than with 100; better means
by more than two standard errors of the paired differences over draws. Whether they hold for our recipe is reported beside.
One training seed: the errors are those of sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdflow.evaluation.distance import DistanceJudge
from mmdflow.studies._models import Measured, lower, walk_of
from mmdflow.studies._study import FULL, SMALL, Results, TableStudy
from mmdflow.studies._tables import NONE, compare_rows, markdown, published
from mmdflow.studies.base import criteria_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmdflow.methods.base import Pipeline

TITLE = "DMMD paper, Table 1: DMMD, DDPM and flow matching after equal training"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {
    "small": SMALL | {"draws": 2, "seconds": 60.0, "flow_matching": True},
    "full": FULL | {"seconds": None, "flow_matching": False},
}

#: Rows of Table 1 without a model here: method -> FID, NFE.
OTHERS = {
    "MMD-GAN (Binkowski et al., original)": (39.90, NONE),
    "MMD-GAN (the paper's own, DMMD's backbone)": (13.62, NONE),
    "DDPM (Ho et al., original)": (3.17, 1000),
    "DGGF-KL": (28.80, 110),
    "JKO-Flow": (23.10, "about 150"),
    "GS-MMD-RK": (55.00, 86),
}
PAPER_100, PAPER_250 = "DMMD, the paper's recipe, NFE 100", "DMMD, the paper's recipe, NFE 250"
PAPER_APPROXIMATE = "a-DMMD, the paper's recipe, NFE 100"
OURS_50, OURS_100, OURS_250 = "DMMD, ours, NFE 52", "DMMD, ours, NFE 100", "DMMD, ours, NFE 250"
DDPM, FLOW = "DDPM, NFE 100", "flow matching, NFE 100"
#: The published FID of a row that is measured.
FIDS = {DDPM: 5.19, PAPER_100: 8.31, PAPER_250: 7.74}


@dataclass(frozen=True, kw_only=True)
class Table1(TableStudy):
    """Models of equal training, ours and the paper's recipe.

    There are recipes dmmd-, ddpm- and, for flow_matching, flow-matching- of every data set.

    Attributes:
        seconds: of training of every model; as many steps as each recipe says when None.
        flow_matching: whether to compare with flow matching too, which Table 1 does not.
    """

    seconds: float | None
    flow_matching: bool
    claim = (
        "DMMD paper, Table 1 and section 7 (CIFAR-10): DDPM on the same backbone performs better than DMMD (FID 5.19 against "
        "8.31 at 100 function evaluations), and DMMD improves with more of them (7.74 at 250)"
    )

    def models(self, name: str) -> dict[str, Pipeline]:
        """Return the models of a data set."""
        models = {
            "ours": self.trained(f"dmmd-{name}", seconds=self.seconds),
            "paper": self.trained(f"dmmd-paper-{name}", seconds=self.seconds),
            "ddpm": self.trained(f"ddpm-{name}", seconds=self.seconds),
        }
        if self.flow_matching:
            models["flow matching"] = self.trained(f"flow-matching-{name}", seconds=self.seconds)
        return models

    def rows(self, name: str, judge: DistanceJudge) -> tuple[dict[str, Measured], dict[str, Any]]:
        """Return the distances of a data set's models, their steps and seconds of training."""
        models = self.models(name)
        ours, paper, ddpm = models["ours"], models["paper"], models["ddpm"]
        rows = {
            OURS_50: self.measure(ours, judge, sampler="exact", **walk_of(ours.defaults, 52)),
            OURS_100: self.measure(ours, judge, sampler="exact", **walk_of(ours.defaults, 102)),
            OURS_250: self.measure(ours, judge, sampler="exact", **walk_of(ours.defaults, 252)),
            PAPER_100: self.measure(paper, judge, sampler="exact", **walk_of(paper.defaults, 100)),
            PAPER_250: self.measure(paper, judge, sampler="exact", **walk_of(paper.defaults, 250)),
            PAPER_APPROXIMATE: self.measure(paper, judge, sampler="approximate", **walk_of(paper.defaults, 100)),
            DDPM: self.measure(ddpm, judge, num_levels=100),
        }
        if "flow matching" in models:
            rows[FLOW] = self.measure(models["flow matching"], judge, num_levels=50, sampler="heun")
        facts = {
            fact: {system: model.provenance[key] for system, model in models.items()}
            for fact, key in (("training_steps", "steps"), ("training_seconds", "train_seconds"))
        }
        return rows, facts

    def criteria(self, tables: Mapping[str, Results[str]]) -> dict[str, bool]:
        """Return which criteria hold of the paper's recipe, for each data set."""
        return _criteria(tables, PAPER_100, PAPER_250)

    def figures(self, tables: Mapping[str, Results[str]]) -> dict[str, Any]:
        """Return which criteria hold of our recipe."""
        return {"criteria_for_ours": _criteria(tables, OURS_100, OURS_250)}

    def finding(self, tables: Mapping[str, Results[str]], criteria: Mapping[str, bool]) -> str:
        """Return the distances, the criteria by both recipes, and where ours is the better one."""
        distances = "; ".join(
            f"{table.judge.unit}: DDPM {table[DDPM]}, the paper's recipe {table[PAPER_100]} at 100 and {table[PAPER_250]} "
            f"at 250, ours {table[OURS_100]} and {table[OURS_250]}, held-out images {table.held_out_text}"
            for table in tables.values()
        )
        better = [name for name, table in tables.items() if lower(table[OURS_100], table[PAPER_100])]
        ours = criteria_sentence(_criteria(tables, OURS_100, OURS_250))
        return (
            f"{distances}. By the paper's recipe: {criteria_sentence(criteria)} By ours: {ours} Ours is better than the paper's "
            f"at 100 on {', '.join(better) or 'none'}."
        )

    def table(self, tables: Mapping[str, Results[str]]) -> str:
        """Return our rows beside the published ones."""
        first, judges = next(iter(tables.values())), [table.judge for table in tables.values()]
        lines: list[list[object]] = []
        for method, row in first.rows.items():
            fid = (FIDS[method], row.nfe) if method in FIDS else (NONE, NONE)
            lines.append([method, row.nfe, *(str(table[method]) for table in tables.values()), *fid])
        lines += [[name, NONE, *["not run here"] * len(tables), fid, nfe] for name, (fid, nfe) in OTHERS.items()]
        lines.append(["held-out images", NONE, *(table.held_out_text for table in tables.values()), NONE, NONE])
        head = ["method", "NFE", *(judge.unit for judge in judges), published(*judges), "published, NFE"]
        return markdown(head, lines)

    def draw(self, figure: Figure, tables: Mapping[str, Results[str]]) -> None:
        """Draw bars of all rows and samples of three."""
        compare_rows(figure, tables, (OURS_100, PAPER_100, DDPM))


def _criteria(tables: Mapping[str, Results[str]], at_100: str, at_250: str) -> dict[str, bool]:
    """Return which criteria hold of DMMD's two rows, for each data set."""
    criteria = {}
    for name, table in tables.items():
        criteria[f"{name}, DDPM better than DMMD at 100"] = lower(table[DDPM], table[at_100])
        criteria[f"{name}, DMMD better at 250 than at 100"] = lower(table[at_250], table[at_100])
    return criteria


run = Table1.run
