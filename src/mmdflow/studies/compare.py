"""All methods on one data set on equal terms: the same budget of training, the same judge, one table, a grid a method."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mmdflow
from mmdflow import _checks, plots
from mmdflow._files import commit, make_folder, new_file, read_json, write_json
from mmdflow.errors import DivergedError, InputError
from mmdflow.evaluation import models
from mmdflow.methods import recipe_names
from mmdflow.methods.base import Pipeline
from mmdflow.runs.cache import on_gpu, run_folder, timed_recipe, trained


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        system: whose recipe is trained.
        how: options of its sampler; none for the recipe's own.
    """

    system: str
    how: Mapping[str, Any] = field(default_factory=dict)


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
}

#: The papers' order on CIFAR-10, best first (DMMD paper, Table 1, and what it says of MMD-GAN-Flow).
PUBLISHED = ("ddpm", "dmmd", "mmd-gan", "jko-flow", "dggf-kl", "gs-mmd-rk", "mmd-gan-flow")

#: Figures of a report that the table shows beside the distance.
_SHOWN = ("precision", "recall", "coverage", "nearest_train_distance")


def methods_for(data: str, asked: Sequence[str] | None = None) -> list[str]:
    """Return the methods that have a recipe for a data set: the asked ones, or all.

    Raises:
        InputError: for an unknown method, or one without a recipe for the data.
    """
    names = recipe_names()
    there = [name for name, method in METHODS.items() if f"{method.system}-{data}" in names]
    if not there:
        known = sorted(name.removeprefix("dmmd-") for name in names if name.startswith("dmmd-"))
        raise InputError(f"data = {data!r}: no method has a recipe for it; must be one of {', '.join(known)}")
    for name in asked or []:
        _checks.choice("methods", name, METHODS)
        if name not in there:
            raise InputError(f"methods = {name!r}: has no recipe for {data}; those with one are {', '.join(there)}")
    return [name for name in there if not asked or name in asked]


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


def compare(
    data: str,
    budget: float,
    folder: Path,
    *,
    methods: Sequence[str] | None = None,
    seeds: int = 1,
    num_samples: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train every method's recipe for the same seconds, judge them alike; write compare.json, .md and .png, and a grid a method.

    What is done stays in `folder/runs`, so that an interrupted comparison goes on, and a larger one uses what there is. On a CPU
    one thread is used, and seconds are those of this process; other programs do not lengthen them.

    Args:
        data: name of the data set.
        budget: seconds of training for each method and seed.
        folder: of the results.
        methods: names from `METHODS`; by default all that have a recipe for the data.
        seeds: how many: 0, 1, ...
        num_samples: samples judged; by default the recipes'.
        progress: show bars and rows as they come.

    Raises:
        InputError: for an unknown method or data set, or impossible numbers.
    """
    names = methods_for(data, methods)
    _checks.positive("budget", budget)
    _checks.count("seeds", seeds)
    if num_samples is not None:
        _checks.count("num_samples", num_samples)
    plots.check_matplotlib()
    make_folder(folder / "runs")
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with _one_thread():
        for seed in range(seeds):
            for name in names:
                report = _measured(data, name, budget, seed, num_samples, folder, progress)
                reports[name].append(report)
                if progress:
                    print(
                        f"seed {seed}  {name:<20} {_distance(report)[0]} {shown_number(_distance(report)[1])}",
                        flush=True,
                    )
    rows = {name: _summary(found) for name, found in reports.items()}
    result = {
        "data": data,
        "budget_seconds": budget,
        "seeds": list(range(seeds)),
        "command": " ".join(["mmdflow", *sys.argv[1:]]),
        "commit": commit(),
        "version": mmdflow.__version__,
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "rows": rows,
        "reports": reports,
    }
    grids = {name: folder / f"{name}.png" for name in order(rows) if (folder / f"{name}.png").exists()}
    if grids:
        plots.save_gallery(grids, folder / "compare.png")
    write_json(folder / "compare.json", result)
    with new_file(folder / "compare.md") as aside:
        aside.write_text(page(result))
    return result


def _measured(
    data: str, name: str, budget: float, seed: int, num_samples: int | None, folder: Path, progress: bool
) -> dict[str, Any]:
    """Return the report of a method and seed: as it was found before, or trained and judged now."""
    method = METHODS[name]
    recipe_name = f"{method.system}-{data}"
    recipe = timed_recipe(recipe_name, seed=seed, seconds=budget)
    file = run_folder(recipe_name, recipe, folder / "runs") / f"{name}-{num_samples or 'all'}.json"
    if file.exists():
        found: dict[str, Any] = read_json(file)
        if found.get("how") == method.how:
            return found
    report: dict[str, Any] = {}
    try:
        pipeline = trained(recipe_name, folder / "runs", seed=seed, progress=progress, seconds=budget)
        report = {
            "parameters": num_parameters(pipeline),
            "steps": pipeline.provenance["steps"],
            "train_seconds": pipeline.provenance["train_seconds"],
            "device": pipeline.provenance["device"],
        }
        report |= models.evaluate(
            pipeline,
            num_samples=num_samples,
            grid=folder / f"{name}.png" if seed == 0 else None,
            clock=time.perf_counter if on_gpu(recipe) else time.process_time,
            progress=progress,
            **method.how,
        )
    except DivergedError as error:
        report["diverged"] = str(error)
    report["how"] = dict(method.how)
    models.save_report(report, file)
    return report


def num_parameters(pipeline: Pipeline) -> int:
    """Return the number of parameters that a pipeline holds."""
    parts = [value for value in vars(pipeline).values() if isinstance(value, nn.Module)]
    return sum(p.numel() for part in parts for p in part.parameters())


def _distance(report: Mapping[str, Any]) -> tuple[str, float | None]:
    """Return the name and value of the distance that ranks: Frechet in the classifier's features, or else sliced W_2."""
    key = "sliced_w2" if "sliced_w2" in report and "classifier_fd" not in report else "classifier_fd"
    return key, report.get(key)


def _summary(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a method's figures over its seeds: mean, and of the distance the standard deviation."""
    good = [report for report in reports if "diverged" not in report]
    summary: dict[str, Any] = {"seeds": len(reports), "diverged": len(reports) - len(good)}
    if not good:
        return summary
    values = [float(_distance(report)[1] or 0.0) for report in good]
    first = good[0]
    return summary | {
        "distance": _distance(first)[0],
        "values": values,
        "mean": statistics.fmean(values),
        "spread": statistics.stdev(values) if len(values) > 1 else None,
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


def order(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the methods from best to worst; those that diverged in every seed come last."""
    return sorted(rows, key=lambda name: rows[name].get("mean", float("inf")))


def page(result: Mapping[str, Any]) -> str:
    """Return a comparison as Markdown: the table from best to worst, and how it was made."""
    rows = result["rows"]
    good = (report for reports in result["reports"].values() for report in reports if "diverged" not in report)
    first: dict[str, Any] = next(good, {})
    key, shown = _distance(first)[0], [name for name in _SHOWN if name in first]
    head = ["method", "Frechet distance" if key == "classifier_fd" else "sliced W_2"]
    head += [name.replace("_", " ") for name in shown]
    head += ["NFE", "parameters", "training steps", "samples a second"]
    lines = [head]
    for name in order(rows):
        row = rows[name]
        if "mean" not in row:
            lines.append([name, "diverged", *["-"] * (len(head) - 2)])
            continue
        spread = "" if row["spread"] is None else f" ± {row['spread']:.2g}"
        lost = f" ({row['diverged']} of {row['seeds']} seeds diverged)" if row["diverged"] else ""
        more = [row["nfe"], row["parameters"], row["steps"], shown_number(row["samples_a_second"])]
        figures = [shown_number(row[k]) for k in shown]
        lines.append([name, f"{shown_number(row['mean'])}{spread}{lost}", *figures, *map(str, more)])
    lines.append(["held-out data", *(shown_number(first.get(f"{k}_reference")) for k in (key, *shown)), *["-"] * 4])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    table = table.replace("\n", "\n|" + "---|" * len(head) + "\n", 1)
    seeds, budget = len(result["seeds"]), result["budget_seconds"]
    spread = ", mean ± standard deviation over them" if seeds > 1 else ""
    reasons = {name: [r["diverged"] for r in runs if "diverged" in r] for name, runs in result["reports"].items()}
    diverged = "; ".join(f"{name}: {' / '.join(said)}" for name, said in reasons.items() if said)
    published = [name for name in PUBLISHED if name in rows]
    ranked = [name for name in order(rows) if name in published]
    found, expected = " > ".join(ranked), " > ".join(published)
    return (
        "\n\n".join(
            (
                f"# All methods on {result['data']}, {budget:g} s of training each",
                table,
                f"{seeds} seed{'s' if seeds > 1 else ''}{spread}. "
                + (f"Features: {first['classifier']}; the distance is not an FID. " if "classifier" in first else "")
                + f"{first.get('num_samples', 0)} samples a method."
                + (f" Diverged: {diverged}." if diverged else ""),
                *([f"Order found: {found}. The papers' order on CIFAR-10: {expected}."] if len(ranked) > 1 else []),
                "![samples of every method](compare.png)",
                f"`{result['command']}`, commit {result['commit']}, {result['machine']}, {first.get('device', '-')}.",
            )
        )
        + "\n"
    )


def shown_number(value: float | None) -> str:
    """Return a number as tables show it: three digits, whole from 1000 to a million, a dash for none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
