"""One-step generators: which velocity field, kernel, space, batch and start, at equal seconds of training.

Published orders contradict each other. Deng et al. (2026) rank their batch form over a softmax over the data alone and over
none, and had no reasonable results with MMD. RDM (arXiv 2607.02375) ranks MMD from landmarks over MMD from batches over
drifting. W-Flow (arXiv 2603.12366) ranks Sinkhorn over drifting over MMD. Here all rows train the same generator for the same
seconds of a core, with several seeds. They are judged by the report judges alone, which no setting was chosen by; settings are
the recipes'. The published orders are of features of pretrained encoders on ImageNet, ours of pixels where a row does not say
otherwise.

The criteria, written down before looking: one row is better than another if its distance is lower by more than two standard
errors of the paired differences over seeds, by both judges. A claim is *seen* if all of its pairs are so, *not seen* if one
pair is so the other way round, and *open* else.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmdflow import plots
from mmdflow.errors import DivergedError
from mmdflow.evaluation import models
from mmdflow.evaluation.data_judges import REPORTS
from mmdflow.evaluation.distance import DistanceJudge, open_judge
from mmdflow.methods.base import Pipeline
from mmdflow.runs.cache import trained
from mmdflow.studies._models import or_none, standard_error
from mmdflow.studies._tables import markdown, shown_distance
from mmdflow.studies.base import Outcome, Study
from mmdflow.studies.compare import one_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "One-step generators: fields, kernels, features, batches and starts at equal seconds, and the published orders"
TRAINS = True
SCALES: dict[str, dict[str, Any]] = {
    "small": {"data": "digits", "seconds": 15.0, "seeds": 3, "num_samples": 1436},
    "full": {"data": "mnist", "seconds": 1200.0, "seeds": 3, "num_samples": 5000},
}


#: Data whose one-step recipes have a decoder as the generator; digits have a perceptron.
_DECODED = ("mnist", "fashion")


@dataclass(frozen=True)
class Row:
    """A generator of the study.

    Attributes:
        family: of its recipe, FAMILY-DATA.
        changes: of the recipe's fields; DATA stands for the name of the data set.
        all_counted: whether all seconds that it needed are counted, those of features or of a teacher among them.
        decoder_family: in place of `family` on data whose one-step recipes have a decoder as the generator.
        with_labels: whether it is told the classes of the data, which the other rows are not.
    """

    family: str = "drifting"
    changes: Mapping[str, Any] = field(default_factory=dict)
    all_counted: bool = True
    decoder_family: str | None = None
    with_labels: bool = False

    def recipe(self, data: str) -> tuple[str, dict[str, Any]]:
        """Return the name of the recipe and its changes for a data set."""
        family = self.decoder_family if self.decoder_family and data in _DECODED else self.family
        return f"{family}-{data}", _named(self.changes, data)


def _named(changes: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Return changes with the data set's name in the place of DATA."""
    named: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, Mapping):
            named[key] = _named(value, data)
        else:
            named[key] = value.replace("DATA", data) if isinstance(value, str) else value
    return named


BATCH, MEAN_SHIFT, SHARP, NONE = ("batch drift", "mean-shift drift", "sharp drift", "drift without normalisation")
SINKHORN, MMD, MMD_LANDMARKS = "Sinkhorn drift", "MMD, Gaussian", "MMD, Gaussian, landmarks"
SMALL_BATCH, LARGE_BATCH = "batch drift, 64 events a step", "batch drift, 1024 events a step"
NARROW, SPREAD = "batch drift, starts at 1 percent", "batch drift, starts at 80 percent"
BY_CLASS, PATCHES = "batch drift, class by class", "batch drift, class by class, with patches"
TEXTURE = "batch drift, class by class, with patches and texture"
TRAINED, UNTRAINED = "batch drift, DMMD features", "batch drift, untrained features"
BESIDE, MMD_BESIDE = "batch drift, features trained beside", "MMD, Gaussian, features trained beside"
GAN, DISTILLED = "MMD-GAN", "DMMD flow, distilled"

_SPACES = {"levels": [0.05, 0.2, 0.4], "levels_per_step": 1, "hidden": False, "field": "means", "weight": 0.3}
_IN_BESIDE = {"spaces": {"recipe": "dmmd-DATA", **_SPACES}}
ROWS: dict[str, Row] = {
    BATCH: Row(),
    MEAN_SHIFT: Row(changes={"loss": {"field": "mean-shift"}}),
    SHARP: Row(changes={"loss": {"field": "sharp"}}),
    NONE: Row(changes={"loss": {"field": "none"}}),
    SINKHORN: Row("sinkhorn-drift"),
    MMD: Row("mmd-generator"),
    MMD_LANDMARKS: Row("mmd-generator", {"loss": {"landmarks": 500}}),
    "MMD, Laplace": Row("mmd-generator", {"loss": {"kernel": "laplace"}}),
    "MMD, Riesz": Row("mmd-generator", {"loss": {"kernel": "riesz", "bandwidths": None}}),
    "batch drift, Gaussian": Row(changes={"loss": {"kernel": "gaussian", "bandwidths": [0.15, 0.3, 0.6]}}),
    SMALL_BATCH: Row(changes={"training": {"batch_size": 64}, "loss": {"population": 64}}),
    LARGE_BATCH: Row(changes={"training": {"batch_size": 1024}, "loss": {"population": 1024}}),
    NARROW: Row(changes={"start": 0.01}),
    SPREAD: Row(changes={"start": 0.8}),
    BY_CLASS: Row(changes={"loss": {"classes": 10}}, with_labels=True),
    PATCHES: Row(changes={"loss": {"classes": 10}, "spaces": {"patches": 7}}, with_labels=True),
    TEXTURE: Row(changes={"loss": {"classes": 10}, "spaces": {"patches": 7, "texture": 4}}, with_labels=True),
    BESIDE: Row(changes=_IN_BESIDE),
    MMD_BESIDE: Row("mmd-generator", _IN_BESIDE),
    TRAINED: Row("dmmd-onestep", all_counted=False),
    UNTRAINED: Row("dmmd-onestep", {"spaces": {"untrained": True}}),
    GAN: Row("mmd-gan", decoder_family="mmd-gan-decoder"),
    DISTILLED: Row(changes={"distillation": {"model": "DATA", "num_pairs": 1024}}, all_counted=False),
}


@dataclass(frozen=True)
class Claim:
    """What was published, or what we set out to reach.

    Attributes:
        text: it, with its source.
        pairs: each the better row and the worse one.
        factor: the better distance is to be below this share of the worse one.
        or_equal: whether it is enough that no better row is worse.
    """

    text: str
    pairs: Sequence[tuple[str, str]]
    factor: float = 1.0
    or_equal: bool = False


CLAIMS = (
    Claim(
        "Deng et al. (2602.04770), ablation: both softmaxes over one over none (FID 8.46, 8.92, 10.5)",
        [(BATCH, MEAN_SHIFT), (MEAN_SHIFT, NONE)],
    ),
    Claim(
        "Deng et al.: MMD gives no reasonable results; less than half of its distance by drifting", [(BATCH, MMD)], 0.5
    ),
    Claim("RDM (2607.02375): MMD from landmarks over MMD from batches", [(MMD_LANDMARKS, MMD)]),
    Claim("RDM: MMD over drifting", [(MMD, BATCH)]),
    Claim("W-Flow (2603.12366): Sinkhorn over drifting over MMD", [(SINKHORN, BATCH), (BATCH, MMD)]),
    Claim("Deng et al.: larger batches are better", [(BATCH, SMALL_BATCH), (LARGE_BATCH, BATCH)]),
    Claim("ours: a start at 1 percent of the spread does not collapse", [(NARROW, GAN)], or_equal=True),
    Claim("ours: the drift in pixels is at or below MMD-GAN", [(BATCH, GAN)], or_equal=True),
    Claim(
        "ours: features that are trained in the same seconds are a quarter below MMD in pixels", [(BESIDE, MMD)], 0.75
    ),
    Claim("ours: and no worse than drifting in pixels", [(BESIDE, BATCH)], or_equal=True),
    Claim("ours: trained features over untrained ones", [(TRAINED, UNTRAINED)]),
)


@dataclass(frozen=True)
class Generated:
    """What was measured of a row.

    Attributes:
        distances: of every seed, by judge; infinite where training diverged.
        steps: of training, mean.
        samples: a few of the first seed; None where it diverged.
    """

    distances: Mapping[str, list[float]]
    steps: float
    samples: Tensor | None

    def shown(self, judge: str) -> str:
        """Return mean and standard error over seeds."""
        values = self.distances[judge]
        if math.inf in values:
            return "diverged"
        error = standard_error(values)
        return shown_distance(statistics.fmean(values)) + (f" ± {error:.2g}" if math.isfinite(error) else "")

    @property
    def plain(self) -> dict[str, Any]:
        """As plain numbers."""
        return {"steps": self.steps, **{j: [or_none(v) for v in values] for j, values in self.distances.items()}}


def compared(a: Generated, b: Generated, factor: float = 1.0) -> int:
    """Return -1 if a's distances are below `factor` times b's, by all judges; 1 if above, by all; 0 else.

    Below and above mean by more than two standard errors of the paired differences over seeds.
    """
    signs = set()
    for judge, values in a.distances.items():
        others = [factor * y for y in b.distances[judge]]
        if math.inf in values or math.inf in others:  # training diverged
            signs.add((math.inf in values) - (math.inf in others))
            continue
        gains = [y - x for x, y in zip(values, others, strict=True)]
        mean, error = statistics.fmean(gains), standard_error(gains)
        clear = abs(mean) > (2 * error if math.isfinite(error) else 0.0)
        signs.add(-1 if clear and mean > 0 else 1 if clear and mean < 0 else 0)
    return signs.pop() if len(signs) == 1 else 0


def verdict(claim: Claim, rows: Mapping[str, Generated]) -> str:
    """Return seen, not seen, or open."""
    signs = [compared(rows[a], rows[b], claim.factor) for a, b in claim.pairs]
    if all(sign < 0 or (claim.or_equal and sign == 0) for sign in signs):
        return "seen"
    return "not seen" if 1 in signs else "open"


@dataclass(frozen=True, kw_only=True)
class OneStep(Study):
    """Rows of `ROWS` on one data set; finished runs are found again, so that an interrupted study goes on.

    Attributes:
        data: the data set.
        seconds: of training of every row and seed, CPU time of one thread.
        seeds: how many, from `seed`.
        num_samples: samples judged.
        runs: folder of the trained models.
    """

    data: str
    seconds: float
    seeds: int
    num_samples: int
    runs: Path

    def outcome(self) -> Outcome:
        """Train what is missing, sample, judge."""
        judges = {kind.features: open_judge(self.data, kind.features, progress=self.progress) for kind in REPORTS}
        rows: dict[str, Generated] = {}
        with one_thread():
            for name, row in ROWS.items():
                rows[name] = self._generated(row, judges)
                if self.progress:
                    print(f"{name:<40} " + "  ".join(rows[name].shown(judge) for judge in judges), flush=True)
        held_out = {name: judge.held_out(self.num_samples) for name, judge in judges.items()}
        verdicts = {claim.text: verdict(claim, rows) for claim in CLAIMS}
        return Outcome(
            CLAIMS[0].text,
            verdicts[CLAIMS[0].text] == "seen",
            self._finding(rows, verdicts, held_out),
            {
                "rows": {name: row.plain for name, row in rows.items()},
                "verdicts": verdicts,
                "judges": {name: judge.name for name, judge in judges.items()},
                "held_out": {name: or_none(distance) for name, distance in held_out.items()},
            },
            lambda figure: _draw(figure, rows),
            _page(rows, verdicts, held_out),
        )

    def _generated(self, row: Row, judges: Mapping[str, DistanceJudge]) -> Generated:
        distances: dict[str, list[float]] = {name: [] for name in judges}
        steps: list[int] = []
        shown: Tensor | None = None
        for seed in range(self.seed, self.seed + self.seeds):
            try:
                pipeline = self._pipeline(row, seed)
                samples, _ = models.draw_samples(pipeline, self.num_samples, self.num_samples, seed)
            except DivergedError:
                for values in distances.values():
                    values.append(math.inf)
                continue
            for name, judge in judges.items():
                distances[name].append(judge(samples))
            steps.append(pipeline.provenance["steps"])
            shown = samples[:36] if shown is None else shown
        return Generated(distances, statistics.fmean(steps) if steps else 0.0, shown)

    def _pipeline(self, row: Row, seed: int) -> Pipeline:
        recipe, changes = row.recipe(self.data)
        return trained(recipe, self.runs, seed=seed, progress=self.progress, seconds=self.seconds, changes=changes)

    def _finding(
        self, rows: Mapping[str, Generated], verdicts: Mapping[str, str], held_out: Mapping[str, float]
    ) -> str:
        first = next(iter(held_out))
        best = min(rows, key=lambda name: statistics.fmean(rows[name].distances[first]))
        counts = {kind: list(verdicts.values()).count(kind) for kind in ("seen", "not seen", "open")}
        return (
            f"Of {len(verdicts)} claims {counts['seen']} were seen, {counts['not seen']} not seen, {counts['open']} open, "
            f"after {self.seconds:g} s of training a row on {self.data}, {self.seeds} seeds. Lowest distance by the judge "
            f"{first}: {best}, {rows[best].shown(first)} (held-out images {shown_distance(held_out[first])})."
        )


def _page(rows: Mapping[str, Generated], verdicts: Mapping[str, str], held_out: Mapping[str, float]) -> str:
    """Return the tables of rows and claims."""
    first = next(iter(held_out))
    names = sorted(rows, key=lambda name: statistics.fmean(rows[name].distances[first]))
    lines: list[list[object]] = []
    for name in names:
        row = ROWS[name]
        mark = ("" if row.all_counted else " (*)") + (" (+)" if row.with_labels else "")
        lines.append([name + mark, *(rows[name].shown(judge) for judge in held_out), round(rows[name].steps)])
    lines.append(["held-out images", *(shown_distance(distance) for distance in held_out.values()), "-"])
    head = ["row", *(f"Frechet distance, judge {judge}" for judge in held_out), "steps"]
    parts = (
        markdown(head, lines),
        "(*) Seconds that trained the DMMD before are not counted. (+) Told the classes of the data, as no other row is.",
        markdown(["claim", "verdict"], [[text, result] for text, result in verdicts.items()]),
    )
    return "\n\n".join(parts)


def _draw(figure: Figure, rows: Mapping[str, Generated]) -> None:
    """Draw bars of all rows by every judge, and samples of six."""
    shown = [
        name for name in (BATCH, MMD, SINKHORN, BESIDE, TRAINED, GAN) if name in rows and rows[name].samples is not None
    ]
    figure.set_size_inches(12, 8)
    grid = figure.add_gridspec(3, 4)
    axes = figure.add_subplot(grid[:, :2])
    judges = list(next(iter(rows.values())).distances)
    for offset, judge in enumerate(judges):
        places = [i + 0.4 * (offset - (len(judges) - 1) / 2) for i in range(len(rows))]
        means = [statistics.fmean(row.distances[judge]) for row in rows.values()]
        finite = [mean if math.isfinite(mean) else 0.0 for mean in means]
        axes.barh(places, finite, height=0.38, label=f"judge {judge}")
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.set(xlabel="Frechet distance", xscale="log")
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
    for place, name in enumerate(shown):
        panel = figure.add_subplot(grid[place // 2, 2 + place % 2])
        samples = rows[name].samples
        assert samples is not None
        panel.imshow(plots.image_grid(samples, 6), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        panel.set_axis_off()
        panel.set_title(name, fontsize=8)


run = OneStep.run
