"""All methods on one data set on equal terms: the same budget of training, the same judge, one table, a grid a method."""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mmdflow
from mmdflow import _checks, plots
from mmdflow._files import commit, make_folder, new_file, write_json
from mmdflow.errors import DivergedError, InputError
from mmdflow.evaluation import models
from mmdflow.evaluation.data_judges import REPORTS
from mmdflow.evaluation.figures import REFERENCE, read_report
from mmdflow.methods import recipe_names, recipe_path
from mmdflow.methods.base import Pipeline
from mmdflow.recipe.read import read_yaml
from mmdflow.runs.cache import run_clock, run_folder, timed_recipe, trained
from mmdflow.studies._tables import markdown


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        system: what it is trained by.
        sampler_settings: of its sampler; none for the recipe's own.
        family: of its recipes, FAMILY-DATA; that of the system by default.
    """

    system: str
    sampler_settings: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""

    def recipe(self, data: str) -> str:
        """Return the name of its recipe for a data set."""
        return f"{self.family or self.system}-{data}"


METHODS: dict[str, Method] = {
    "dmmd": Method("dmmd"),
    "a-dmmd": Method("dmmd", {"sampler": "approximate"}),
    "ddpm": Method("ddpm"),
    "flow-matching": Method("flow-matching"),
    "mmd-gan": Method("mmd-gan"),
    "mmd-gan-flow": Method("mmd-gan", {"sampler": "flow", "step_size": 0.003}),  # larger ones run away on digits
    "gs-mmd-rk": Method("gs-mmd-rk"),
    "jko-flow": Method("jko-flow"),
    "dggf-kl": Method("dggf-kl"),
    "discriminator-flow": Method("discriminator-flow"),
    # with the published settings, where ours differ; digits alone
    "gs-mmd-rk-paper": Method("gs-mmd-rk", family="gs-mmd-rk-paper"),
    "dggf-kl-paper": Method("dggf-kl", family="dggf-kl-paper"),
    "discriminator-flow-paper": Method("discriminator-flow", family="discriminator-flow-paper"),
    # the one-step DMMD is not among them: its features are trained before the seconds begin
    "drifting": Method("drifting"),
    "mmd-generator": Method("drifting", family="mmd-generator"),
    "sinkhorn-drift": Method("drifting", family="sinkhorn-drift"),
}

#: The papers' order on CIFAR-10, best first (DMMD paper, Table 1, and what it says of MMD-GAN-Flow).
PUBLISHED = ("ddpm", "dmmd", "mmd-gan", "jko-flow", "dggf-kl", "gs-mmd-rk", "mmd-gan-flow")

#: Distances by the judges that no setting was chosen by: the table shows them beside that which ranks, with their spread.
_REPORT_DISTANCES = tuple(kind.figure for kind in REPORTS)
#: Figures of a report that the table shows beside the distances.
_SHOWN = ("precision", "recall", "coverage", "nearest_distance")


def methods_for(data: str, methods: Sequence[str] | None = None) -> list[str]:
    """Return the methods that have a recipe for a data set: those named, or all.

    Raises:
        InputError: for an unknown method, or one without a recipe for the data.
    """
    possible = [name for name, method in METHODS.items() if _has_recipe(method, data)]
    if not possible:
        known = {_data_of(name) for name in recipe_names()}
        data_sets = sorted(data for data in known if any(_has_recipe(method, data) for method in METHODS.values()))
        raise InputError(f"data = {data!r}: no method has a recipe for it; must be one of {', '.join(data_sets)}")
    for name in methods or []:
        _checks.choice("methods", name, METHODS)
        if name not in possible:
            raise InputError(f"methods = {name!r}: has no recipe for {data}; those with one are {', '.join(possible)}")
    return [name for name in possible if not methods or name in methods]


def _has_recipe(method: Method, data: str) -> bool:
    """Whether a method has a recipe for a data set; dmmd-onestep-digits is none of dmmd, for data called onestep-digits."""
    name = method.recipe(data)
    return name in recipe_names() and _data_of(name) == data


def _data_of(recipe: str) -> str:
    """Return the name of a recipe's data."""
    return str(read_yaml(recipe_path(recipe))["data"]["name"])


def budget_seconds(text: str) -> float:
    """Return a budget such as "120", "120s", "2min" or "1h" in seconds.

    Example:
        >>> budget_seconds("2min")
        120.0
    """
    number, factor = text.strip(), 1.0
    for unit, seconds in (("min", 60.0), ("h", 3600.0), ("s", 1.0)):
        if number.endswith(unit):
            number, factor = number.removesuffix(unit), seconds
            break
    try:
        value = float(number) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"budget = {text!r}: must be a time above 0, such as 120s, 2min or 1h")
    return value


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared, and on which terms.

    Attributes:
        data: name of the data set.
        budget: seconds of training for each method and seed.
        methods: names from `METHODS`; all that have a recipe for the data when None.
        seeds: how many: 0, 1, ...
        num_samples: samples judged; as many as each recipe says when None.
    """

    data: str
    budget: float
    methods: Sequence[str] | None = None
    seeds: int = 1
    num_samples: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        methods_for(self.data, self.methods)
        _checks.positive("budget", self.budget)
        _checks.count("seeds", self.seeds)
        if self.num_samples is not None:
            _checks.count("num_samples", self.num_samples)

    @property
    def names(self) -> list[str]:
        """The methods that are compared."""
        return methods_for(self.data, self.methods)


def compare(settings: ComparisonSettings, folder: Path, *, progress: bool = False) -> dict[str, Any]:
    """Train every method's recipe for the same seconds, judge them alike; write compare.json, .md and .png, and a grid a method.

    What is done stays in `folder/runs`, so that an interrupted comparison goes on, and a larger one uses what there is. On a CPU
    one thread is used, and seconds are those of this process; other programs do not lengthen them.

    Args:
        settings: what is compared, and on which terms.
        folder: of the results.
        progress: show bars and rows as they come.

    Returns:
        What compare.json holds.

    Raises:
        ImportError: without matplotlib.
        InputError: if the folder cannot be made.
    """
    plots.check_matplotlib()
    make_folder(folder / "runs")
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in settings.names}
    with one_thread():
        for seed in range(settings.seeds):
            for name in settings.names:
                report = _report(settings, name, seed, folder, progress)
                reports[name].append(report)
                if progress:
                    key, distance = _distance(report)
                    print(f"seed {seed}  {name:<20} {key} {shown_number(distance)}", flush=True)
    result = {
        "data": settings.data,
        "budget_seconds": settings.budget,
        "seeds": list(range(settings.seeds)),
        "command": " ".join(["mmdflow", *sys.argv[1:]]),
        "commit": commit(),
        "version": mmdflow.__version__,
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "rows": {name: _summary(of_method) for name, of_method in reports.items()},
        "reports": reports,
    }
    _write(result, folder)
    return result


def _write(result: Mapping[str, Any], folder: Path) -> None:
    """Write the gallery of all grids, the figures and the page."""
    grids = {name: folder / f"{name}.png" for name in order(result["rows"]) if (folder / f"{name}.png").exists()}
    if grids:
        plots.save_gallery(grids, folder / "compare.png")
    write_json(folder / "compare.json", result)
    with new_file(folder / "compare.md") as aside:
        aside.write_text(page(result))


def _report(settings: ComparisonSettings, name: str, seed: int, folder: Path, progress: bool) -> dict[str, Any]:
    """Return the report of a method and seed: read from its file where there is one, or trained and judged now."""
    method = METHODS[name]
    recipe_name = method.recipe(settings.data)
    recipe = timed_recipe(recipe_name, seed=seed, seconds=settings.budget)
    file = run_folder(recipe_name, recipe, folder / "runs") / f"{name}-{settings.num_samples or 'all'}.json"
    if file.exists():
        earlier: dict[str, Any] = read_report(file)
        whole = "diverged" in earlier or "judges" in earlier  # earlier reports lack the report judges
        if whole and earlier.get("sampler_settings") == method.sampler_settings:
            return earlier
    report: dict[str, Any] = {}
    try:
        pipeline = trained(recipe_name, folder / "runs", seed=seed, progress=progress, seconds=settings.budget)
        report = {
            "parameters": num_parameters(pipeline),
            "steps": pipeline.provenance["steps"],
            "train_seconds": pipeline.provenance["train_seconds"],
            "device": pipeline.provenance["device"],
        }
        report |= models.evaluate(
            pipeline,
            num_samples=settings.num_samples,
            grid=folder / f"{name}.png" if seed == 0 else None,
            clock=run_clock(recipe),
            progress=progress,
            **method.sampler_settings,
        )
    except DivergedError as error:
        report["diverged"] = str(error)
    report["sampler_settings"] = dict(method.sampler_settings)
    models.save_report(report, file)
    return report


def num_parameters(pipeline: Pipeline) -> int:
    """Return the number of parameters that a pipeline holds."""
    parts = [value for value in vars(pipeline).values() if isinstance(value, nn.Module)]
    return sum(p.numel() for part in parts for p in part.parameters())


def _distance(report: Mapping[str, Any]) -> tuple[str, float | None]:
    """Return the name and value of the distance that ranks: Frechet in the classifier's features, or else sliced W_2."""
    key = "sliced_w2" if "sliced_w2" in report and "frechet_distance" not in report else "frechet_distance"
    return key, report.get(key)


def _summary(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a method's figures over its seeds: mean, and of the distance the standard deviation."""
    good = [report for report in reports if "diverged" not in report]
    summary: dict[str, Any] = {"seeds": len(reports), "diverged": len(reports) - len(good)}
    if not good:
        return summary
    first = good[0]
    return summary | {
        "distance": _distance(first)[0],
        **_of_seeds([float(_distance(report)[1] or 0.0) for report in good]),
        **{key: _of_seeds([float(report[key]) for report in good]) for key in _REPORT_DISTANCES if key in first},
        **{key: statistics.fmean(report[key] for report in good) for key in _SHOWN if key in first},
        "nfe": first["nfe"],
        "parameters": first["parameters"],
        "steps": round(statistics.fmean(report["steps"] for report in good)),
        "train_seconds": statistics.fmean(report["train_seconds"] for report in good),
        "samples_a_second": statistics.fmean(
            report["num_samples"] / max(report["sample_seconds"], 1e-9) for report in good
        ),
        "num_samples": first["num_samples"],
    }


def _of_seeds(values: list[float]) -> dict[str, Any]:
    """Return a distance of every seed, their mean, and their standard deviation where there are two."""
    return {
        "values": values,
        "mean": statistics.fmean(values),
        "spread": statistics.stdev(values) if len(values) > 1 else None,
    }


def order(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the methods from best to worst; those that diverged in every seed come last."""
    return sorted(rows, key=lambda name: rows[name].get("mean", float("inf")))


def page(result: Mapping[str, Any]) -> str:
    """Return a comparison as Markdown: the table from best to worst, and how it was made."""
    good = (report for reports in result["reports"].values() for report in reports if "diverged" not in report)
    first: dict[str, Any] = next(good, {})
    parts = (
        f"# All methods on {result['data']}, {result['budget_seconds']:g} s of training each",
        _table(result, first),
        _terms(result, first),
        *_order_sentence(result["rows"]),
        "![samples of every method](compare.png)",
        f"`{result['command']}`, commit {result['commit']}, {result['machine']}, {first.get('device', '-')}.",
    )
    return "\n\n".join(parts) + "\n"


def _table(result: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Return the table: a method a row, held-out data last."""
    rows = result["rows"]
    key, shown = _distance(first)[0], [name for name in _SHOWN if name in first]
    others = [name for name in _REPORT_DISTANCES if name in first]
    head = ["method", "Frechet distance" if key == "frechet_distance" else "sliced W_2"]
    head += [name.replace("_", " ") for name in others]
    head += [name.replace("_", " ") for name in shown]
    head += ["NFE", "parameters", "training steps", "samples a second"]
    lines = []
    for name in order(rows):
        row = rows[name]
        if "mean" not in row:
            lines.append([name, "diverged", *["-"] * (len(head) - 2)])
            continue
        lost = f" ({row['diverged']} of {row['seeds']} seeds diverged)" if row["diverged"] else ""
        costs = [row["nfe"], row["parameters"], row["steps"], shown_number(row["samples_a_second"])]
        figures = [*(_shown_seeds(row[k]) for k in others), *(shown_number(row[k]) for k in shown)]
        lines.append([name, f"{_shown_seeds(row)}{lost}", *figures, *map(str, costs)])
    held_out = [shown_number(first.get(f"{k}{REFERENCE}")) for k in (key, *others, *shown)]
    return markdown(head, [*lines, ["held-out data", *held_out, *["-"] * 4]])


def _shown_seeds(distance: Mapping[str, Any]) -> str:
    """Return a distance as `_of_seeds` has it: its mean, and its deviation where there is one."""
    spread = "" if distance["spread"] is None else f" ± {distance['spread']:.2g}"
    return f"{shown_number(distance['mean'])}{spread}"


def _terms(result: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Return seeds, features, samples, and what diverged, in a line."""
    seeds = len(result["seeds"])
    spread = ", mean ± standard deviation over them" if seeds > 1 else ""
    reasons = {name: [r["diverged"] for r in reports if "diverged" in r] for name, reports in result["reports"].items()}
    diverged = "; ".join(f"{name}: {' / '.join(messages)}" for name, messages in reasons.items() if messages)
    return (
        f"{seeds} seed{'s' if seeds > 1 else ''}{spread}. {_judges(first)}{first.get('num_samples', 0)} samples a method."
        + (f" Diverged: {diverged}." if diverged else "")
    )


def _judges(first: Mapping[str, Any]) -> str:
    """Return whose features the distances are in; nothing where there are none."""
    judges = first.get("judges") or ({"frechet_distance": first["features"]} if "frechet_distance" in first else {})
    if len(judges) < 2:
        return "".join(f"Features: {name}; the distance is not an FID. " for name in judges.values())
    names = " ".join(f"Features of the {key.replace('_', ' ')}: {name}." for key, name in judges.items())
    return f"{names} No distance is an FID. "


def _order_sentence(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the order found beside the papers', where at least two methods have both."""
    published = [name for name in PUBLISHED if name in rows]
    ranked = [name for name in order(rows) if name in published]
    if len(ranked) < 2:
        return []
    return [f"Order found: {' > '.join(ranked)}. The papers' order on CIFAR-10: {' > '.join(published)}."]


def shown_number(value: float | None) -> str:
    """Return a number as tables show it: three digits, whole from 1000 to a million, a dash for none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
