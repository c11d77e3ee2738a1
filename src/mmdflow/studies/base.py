"""What a reproduction returns, and how it is written: a figure, a JSON with the figures in it, one sentence."""

from __future__ import annotations

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from mmdflow import __version__, _checks, plots
from mmdflow._files import commit, make_folder, new_file, write_json
from mmdflow.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Outcome:
    """What a reproduction found.

    Attributes:
        claim: what the paper says, in one sentence with its source.
        seen: whether that was seen here.
        finding: one sentence with the figures that decide it.
        figures: every figure that was measured, as plain numbers, lists and dictionaries.
        draw: fills an empty matplotlib figure.
        table: a Markdown table, for those that make a table.
    """

    claim: str
    seen: bool
    finding: str
    figures: Mapping[str, Any]
    draw: Callable[[Figure], None]
    table: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """Settings of a study; those of its scales are its fields.

    Attributes:
        seed: of everything random.
        progress: show bars.
    """

    seed: int
    progress: bool

    @classmethod
    def run(cls, **settings: Any) -> Outcome:
        """Measure with settings by name, and return the outcome."""
        return cls(**settings).outcome()

    @abstractmethod
    def outcome(self) -> Outcome:
        """Measure everything, and return what was found."""


def criteria_sentence(criteria: Mapping[str, bool]) -> str:
    """Return which criteria were seen and which were not, as a sentence.

    Example:
        >>> criteria_sentence({"a falls": True, "b rises": False})
        'Seen: a falls; not seen: b rises.'
    """
    seen, missed = ([name for name, holds in criteria.items() if bool(holds) is wanted] for wanted in (True, False))
    return f"Seen: {', '.join(seen) or 'nothing'}; not seen: {', '.join(missed) or 'nothing'}."


def reproduce(
    name: str,
    experiment: ModuleType,
    folder: Path,
    *,
    scale: str = "small",
    seed: int = 0,
    features: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Run an experiment; write NAME.png, NAME.json and, of a table, NAME.md into `folder`; return what the JSON holds.

    Args:
        name: of the files.
        experiment: the module.
        folder: of the files, made where there is none.
        scale: "small" or "full".
        seed: of everything random.
        features: that samples are judged by, in place of the scale's; for the experiments that have such a setting.
        progress: show bars.

    Raises:
        InputError: for an unknown scale, a negative seed, or features that the experiment does not judge by.
    """
    settings = dict(experiment.SCALES[_checks.choice("scale", scale, experiment.SCALES)])
    if features is not None:
        if "features" not in settings:
            raise InputError(f"features = {features!r}: {name} does not judge by features; must be left out")
        settings["features"] = features
    _checks.count("seed", seed, 0)
    make_folder(folder)
    plots.check_matplotlib()
    start = time.perf_counter()
    runs = {"runs": folder / "runs"} if getattr(experiment, "TRAINS", False) else {}
    outcome = experiment.run(seed=seed, progress=progress, **runs, **settings)
    report = {
        "name": name,
        "claim": outcome.claim,
        "seen": outcome.seen,
        "finding": outcome.finding,
        "figures": dict(outcome.figures),
        "settings": settings,
        "scale": scale,
        "seed": seed,
        "command": f"mmdflow reproduce {name} --scale {scale} --seed {seed}"
        + ("" if features is None else f" --features {features}"),
        "seconds": round(time.perf_counter() - start, 1),
        "version": __version__,
        "commit": commit(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    if outcome.table is not None:
        report["table"] = outcome.table
        with new_file(folder / f"{name}.md") as aside:
            aside.write_text(_page(report))
    plots.save_picture(plots.draw(outcome.draw), folder / f"{name}.png")
    write_json(folder / f"{name}.json", report)  # last: where it is, the others are
    return report


def _page(report: dict[str, Any]) -> str:
    verdict = "seen" if report["seen"] else "not seen"
    where = f"`{report['command']}`: {report['seconds']:.0f} s, {report['machine']}, torch {report['torch']}."
    parts = (
        f"# {report['name']}",
        report["table"],
        f"**Claim.** {report['claim']}.",
        f"**Verdict: {verdict}.** {report['finding']}",
        where,
    )
    return "\n\n".join(parts) + "\n"
