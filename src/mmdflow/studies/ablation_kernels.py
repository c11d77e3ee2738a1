"""DMMD paper, section 7: base kernels on the features, linear against RBF and rational quadratic.

Each base kernel has its own features, trained by our recipe for the same seconds (small, digits) or the recipe's steps
(full, CIFAR-10); kernels other than linear flow towards N_c reference images (eq. 10) in place of mean features. The RBF
base is a sum over three widths, the RQ base MMD-GAN's mixture over alpha = .1, 1, 10 (Binkowski et al. 2018), each also with
a linear part of weight 1. The widths are ours. All train on paired samples, since features cannot be shared between mean and
penalty under kernels other than linear.

The criterion, written down before looking: with neither sampler is any of the other base kernels better than the linear one
by more than two standard errors of the paired differences over draws. Where training is bounded by seconds, it holds against
the linear one trained for as few steps too, added after a first look, in which the other kernels had made a third of the
steps. One training seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdflow.evaluation.distance import DistanceJudge
from mmdflow.studies._models import Measured, lower, walk
from mmdflow.studies._study import FULL_ABLATION, SMALL_ABLATION, AblationStudy, Results
from mmdflow.studies._tables import NONE, bars, markdown, published, show_samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmdflow.methods.base import Pipeline

TITLE = "DMMD paper, section 7: linear, RBF and rational quadratic base kernels"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {
    "small": SMALL_ABLATION | {"draws": 3, "seconds": 30.0, "num_references": 500, "num_levels": 50},
    "full": FULL_ABLATION | {"seconds": None, "num_references": 1000, "num_levels": 98},
}

RBF: dict[str, Any] = {"name": "gaussian", "bandwidths": [1.0, 4.0, 16.0]}
RQ: dict[str, Any] = {"name": "rational-quadratic", "alphas": [0.1, 1.0, 10.0]}
BASES: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear"},
    "RBF": RBF,
    "RBF + linear": RBF | {"linear": 1.0},
    "RQ mixture": RQ,
    "RQ mixture + linear": RQ | {"linear": 1.0},
}
OTHERS = [name for name in BASES if name != "linear"]
#: The linear base again, trained for as many steps as RBF's seconds allow: what is left of the difference is not cost.
AS_FEW = "linear, RBF's steps"
SAMPLERS = ("exact", "approximate")
#: Base kernel and sampler.
Row = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class KernelsAblation(AblationStudy[Row]):
    """A model for each base kernel.

    Attributes:
        seconds: of training of every model; as many steps as the recipe says when None.
        num_references: reference images N_c of the kernels other than linear.
        num_levels: noise levels of sampling.
    """

    seconds: float | None
    num_references: int
    num_levels: int
    claim = (
        "DMMD paper, section 7: other base kernels than linear, such as RBF and rational quadratic, did not improve "
        "performance"
    )

    @property
    def bases(self) -> dict[str, dict[str, Any]]:
        """The base kernels, with the linear one of as few steps where seconds bound the training."""
        return BASES if self.seconds is None else BASES | {AS_FEW: BASES["linear"]}

    def model(self, name: str, steps: Mapping[str, int]) -> Pipeline:
        """Return the model of a base kernel; `steps` are those of the models before it."""
        changes: dict[str, Any] = {
            "base": self.bases[name],
            "loss": {"pairing": "paired"},
            "sampling": {"num_references": self.num_references},
        }
        if name == AS_FEW:
            return self.trained(f"dmmd-{self.data}", changes=changes | {"training": {"max_steps": steps["RBF"]}})
        return self.trained(f"dmmd-{self.data}", seconds=self.seconds, changes=changes)

    def rows(self, judge: DistanceJudge) -> tuple[dict[Row, Measured], dict[str, Any]]:
        """Return the distances by base kernel and sampler, and the steps of training."""
        rows: dict[Row, Measured] = {}
        steps: dict[str, int] = {}
        for name in self.bases:
            pipeline = self.model(name, steps)
            steps[name] = pipeline.provenance["steps"]
            for sampler in SAMPLERS:
                rows[name, sampler] = self.measure(
                    pipeline, judge, sampler=sampler, **walk(pipeline.defaults, self.num_levels, 1)
                )
        return rows, {"training_steps": steps}

    def criteria(self, results: Results[Row]) -> dict[str, bool]:
        """Return which base kernels are not better than the linear one, and at equal steps."""

        def better(name: str, linear: str) -> bool:
            return any(lower(results[name, sampler], results[linear, sampler]) for sampler in SAMPLERS)

        criteria = {f"{name} is not better": not better(name, "linear") for name in OTHERS}
        if AS_FEW in self.bases:
            criteria |= {f"{name} is not better at equal steps": not better(name, AS_FEW) for name in OTHERS}
        return criteria

    def finding(self, results: Results[Row], criteria: Mapping[str, bool]) -> str:
        """Return the distances, which kernels are better, and the steps of training."""
        better = [name for name in OTHERS if not criteria[f"{name} is not better"]]
        distances = ", ".join(
            f"{name} {results[name, 'exact']} exact and {results[name, 'approximate']} approximate"
            for name in self.bases
        )
        steps = ", ".join(f"{name} {count}" for name, count in results.facts["training_steps"].items())
        return (
            f"{results.judge.unit}: {distances}; held-out images {results.held_out_text}. Better than linear: "
            f"{', '.join(better) or 'none'}. Steps of training: {steps}."
        )

    def figures(self, results: Results[Row]) -> dict[str, Any]:
        """Return the distances and the steps of training."""
        rows = {name: {sampler: results[name, sampler].plain for sampler in SAMPLERS} for name in self.bases}
        return {"rows": rows, **results.facts}

    def table(self, results: Results[Row]) -> str:
        """Return a row for each base kernel."""
        steps = results.facts["training_steps"]
        lines: list[list[object]] = [
            [name, steps[name], *(str(results[name, s]) for s in SAMPLERS), 8.31 if name == "linear" else NONE]
            for name in self.bases
        ]
        lines.append(["held-out images", NONE, results.held_out_text, results.held_out_text, NONE])
        columns = [f"{results.judge.unit}, {sampler}" for sampler in SAMPLERS]
        return markdown(["base kernel", "training steps", *columns, published(results.judge) + ", NFE 100"], lines)

    def draw(self, figure: Figure, results: Results[Row]) -> None:
        """Draw bars of all rows, and samples of three base kernels."""
        figure.set_size_inches(15, 4.5)
        grid = figure.add_gridspec(1, 5)
        flat = {f"{name}, {sampler}": m for (name, sampler), m in results.rows.items()}
        bars(figure.add_subplot(grid[0, :2]), flat, results.judge.unit, results.held_out)
        for place, name in enumerate(("linear", "RBF + linear", "RQ mixture + linear")):
            show_samples(figure.add_subplot(grid[0, 2 + place]), results[name, "exact"].samples, name)


run = KernelsAblation.run
