"""What the tables and ablations share: settings, models, judges, and the way from rows to an outcome.

A study is a dataclass of its settings. It says its rows (which models are sampled how), the criteria that they must meet, and the
words and pictures around them; `run` opens the judges, measures, and puts the outcome together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from mmdflow.evaluation.distance import DistanceJudge, open_judge, open_judges
from mmdflow.runs.cache import trained
from mmdflow.studies._models import Measured, measure, or_none, own_or_shipped
from mmdflow.studies._tables import shown_distance
from mmdflow.studies.base import Outcome, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmdflow.methods.base import Pipeline

#: Settings that the scales of tables share; a table adds its own. 359 samples are as many as the held-out digits.
SMALL: dict[str, Any] = {
    "features": "own",
    "data": ["digits", "mnist", "fashion"],
    "num_samples": 359,
    "particles": 359,
}
FULL: dict[str, Any] = {
    "features": "inception",
    "data": ["cifar10"],
    "num_samples": 50_000,
    "draws": 1,
    "particles": 200,
}
#: The same of ablations, which take one data set.
SMALL_ABLATION: dict[str, Any] = SMALL | {"data": "digits"}
FULL_ABLATION: dict[str, Any] = FULL | {"data": "cifar10", "num_samples": 10_000}

Row = TypeVar("Row", bound=Hashable)


@dataclass(frozen=True)
class Results(Generic[Row]):
    """What was measured on a data set.

    Attributes:
        judge: of the data set.
        rows: distances of samples, by row.
        held_out: distance of held-out images; nan where there are none.
        facts: what else is kept, such as steps of training.
    """

    judge: DistanceJudge
    rows: Mapping[Row, Measured]
    held_out: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, row: Row) -> Measured:
        """Return the distances of a row."""
        return self.rows[row]

    @property
    def held_out_text(self) -> str:
        """The distance of held-out images as tables show it."""
        return shown_distance(self.held_out)


@dataclass(frozen=True, kw_only=True)
class ModelStudy(Study):
    """Settings of a table or an ablation; `run` raises InputError if the files of all data sets are missing.

    Attributes:
        features: that samples are judged by, as `open_judge` takes them.
        num_samples: samples of a draw; as many as the data set's protocol says when None.
        draws: draws of samples a row.
        particles: that flow together, 200 in the paper; several numbers where a study compares them.
        runs: folder of the trained models.
    """

    features: str
    num_samples: int | None
    draws: int
    particles: int | Sequence[int]
    runs: Path
    claim: ClassVar[str]

    def count(self, judge: DistanceJudge) -> int:
        """Return the samples of a draw."""
        return judge.num_samples if self.num_samples is None else self.num_samples

    def measure(
        self, pipeline: Pipeline, judge: DistanceJudge, particles: int | None = None, **sampler: Any
    ) -> Measured:
        """Return the distances of a model's draws; `particles` flow together, the study's number by default."""
        together = self.particles if particles is None else particles
        assert isinstance(together, int)
        return measure(
            pipeline,
            judge,
            num_samples=self.count(judge),
            draws=self.draws,
            particles=together,
            seed=self.seed,
            **sampler,
        )

    def trained(
        self, recipe: str, *, seconds: float | None = None, changes: Mapping[str, Any] | None = None
    ) -> Pipeline:
        """Return the model of a recipe, trained where it is missing."""
        return trained(recipe, self.runs, seed=self.seed, progress=self.progress, seconds=seconds, changes=changes)

    def own_or_shipped(self, data: str) -> tuple[Pipeline, str]:
        """Return DMMD's model of a data set, and where it is from."""
        return own_or_shipped(data, self.runs, seed=self.seed, progress=self.progress)


@dataclass(frozen=True, kw_only=True)
class TableStudy(ModelStudy):
    """A table with a column for each data set.

    Attributes:
        data: the data sets; those whose files are missing are left out, and named.
    """

    data: Sequence[str]

    @abstractmethod
    def rows(self, name: str, judge: DistanceJudge) -> tuple[dict[str, Measured], dict[str, Any]]:
        """Return the distances of a data set by row, and what else is kept of it."""

    @abstractmethod
    def criteria(self, tables: Mapping[str, Results[str]]) -> dict[str, bool]:
        """Return which criteria hold."""

    @abstractmethod
    def finding(self, tables: Mapping[str, Results[str]], criteria: Mapping[str, bool]) -> str:
        """Return what was found in a few sentences, without the data sets that were left out."""

    @abstractmethod
    def table(self, tables: Mapping[str, Results[str]]) -> str:
        """Return the table in Markdown."""

    @abstractmethod
    def draw(self, figure: Figure, tables: Mapping[str, Results[str]]) -> None:
        """Fill an empty figure."""

    def figures(self, tables: Mapping[str, Results[str]]) -> dict[str, Any]:
        """Return figures that the table keeps besides rows and facts."""
        return {}

    def seen(self, criteria: Mapping[str, bool], missing: str) -> bool:
        """Return whether the claim was seen."""
        return all(criteria.values())

    def outcome(self) -> Outcome:
        """Train what is missing, sample, judge."""
        judges, missing = open_judges(self.data, self.features, progress=self.progress)
        tables: dict[str, Results[str]] = {}
        for name, judge in judges.items():
            rows, facts = self.rows(name, judge)
            tables[name] = Results(judge, rows, judge.held_out(self.count(judge)), facts)
        criteria = self.criteria(tables)
        figures = {"criteria": criteria, **self.figures(tables), **self._kept(tables)}
        return Outcome(
            self.claim,
            self.seen(criteria, missing),
            self.finding(tables, criteria) + missing,
            figures,
            lambda figure: self.draw(figure, tables),
            self.table(tables),
        )

    def _kept(self, tables: Mapping[str, Results[str]]) -> dict[str, Any]:
        """Return what every table keeps, in plain types."""
        kinds = dict.fromkeys(kind for table in tables.values() for kind in table.facts)
        return {
            **{kind: {name: table.facts[kind] for name, table in tables.items()} for kind in kinds},
            "judges": {name: table.judge.name for name, table in tables.items()},
            "held_out": {name: or_none(table.held_out) for name, table in tables.items()},
            "rows": {name: {row: m.plain for row, m in table.rows.items()} for name, table in tables.items()},
            "left_out": [name for name in self.data if name not in tables],
        }


@dataclass(frozen=True, kw_only=True)
class AblationStudy(ModelStudy, Generic[Row]):
    """An ablation on one data set.

    Attributes:
        data: the data set.
    """

    data: str

    @abstractmethod
    def rows(self, judge: DistanceJudge) -> tuple[dict[Row, Measured], dict[str, Any]]:
        """Return the distances by row, and what else is kept."""

    @abstractmethod
    def criteria(self, results: Results[Row]) -> dict[str, bool]:
        """Return which criteria hold."""

    @abstractmethod
    def finding(self, results: Results[Row], criteria: Mapping[str, bool]) -> str:
        """Return what was found, in a few sentences."""

    @abstractmethod
    def figures(self, results: Results[Row]) -> dict[str, Any]:
        """Return the rows and what else is kept, in plain types."""

    @abstractmethod
    def table(self, results: Results[Row]) -> str:
        """Return the table in Markdown."""

    @abstractmethod
    def draw(self, figure: Figure, results: Results[Row]) -> None:
        """Fill an empty figure."""

    def outcome(self) -> Outcome:
        """Train what is missing, sample, judge."""
        judge = open_judge(self.data, self.features, progress=self.progress)
        rows, facts = self.rows(judge)
        results = Results(judge, rows, judge.held_out(self.count(judge)), facts)
        criteria = self.criteria(results)
        figures = {
            "criteria": criteria,
            "judge": judge.name,
            "held_out": or_none(results.held_out),
            **self.figures(results),
        }
        return Outcome(
            self.claim,
            all(criteria.values()),
            self.finding(results, criteria),
            figures,
            lambda figure: self.draw(figure, results),
            self.table(results),
        )
