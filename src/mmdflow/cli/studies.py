"""`reproduce` and `compare`: figures and tables of many runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mmdflow import _checks
from mmdflow.cli._options import Parser, check_free, on_interrupt


def reproduce_command(arguments: list[str]) -> None:
    """Make figures of the papers again, or list them."""
    parser = Parser("reproduce", "Make figures of the papers again; without a name, list them.")
    parser.add_argument("name", type=str, nargs="?", help="a reproduction's name, or all")
    parser.add_argument(
        "--scale", type=str, default="small", help="small (minutes on 2 CPU cores) or full (the paper's settings)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument(
        "--features",
        type=str,
        help="what tables and ablations judge by: own (the data's validation judge; small), report, random (those that settings "
        "are not chosen by), inception (FID; full), inception:FILE or timm:MODEL",
    )
    parser.add_argument(
        "-o", "--output", type=str, default="reproductions", help="folder of the figures and JSON files"
    )
    parser.add_overwrite()
    options = parser.parse(arguments)

    from mmdflow import studies
    from mmdflow.errors import InputError

    if options.name is None:
        print("reproductions (mmdflow reproduce NAME, or all):")
        for name in studies.NAMES:
            print(f"  {name:<22} {studies.module(name).TITLE}")
        return
    _checks.choice("name", options.name, ["all", *studies.NAMES])
    if options.name == "all" and options.features is not None:
        raise InputError(f"features = {options.features!r}: is for one reproduction; must be left out with all")
    folder = Path(options.output)
    settings = options.some("scale", "seed", "features")
    done: list[str] = []
    names = studies.NAMES if options.name == "all" else (options.name,)
    check_free(options, *(folder / f"{name}.json" for name in names))
    for name in names:
        with on_interrupt(partial("Done and saved: {}; not done: {}".format, ", ".join(done) or "nothing", name)):
            report = studies.reproduce(name, studies.module(name), folder, **settings, progress=True)
        done.append(name)
        _print(report, folder / name)


def _print(report: dict[str, Any], path: Path) -> None:
    """Print the verdict of a reproduction, and the files that begin with `path`."""
    print(f"claim:   {report['claim']}")
    print(f"finding: {report['finding']}")
    print(f"verdict: {'seen' if report['seen'] else 'not seen'} ({report['seconds']:.0f} s)")
    endings = ["png", "json", *(["md"] if "table" in report else [])]
    print("written: " + ", ".join(f"{path}.{ending}" for ending in endings))


def compare_command(arguments: list[str]) -> None:
    """Train every method of a data set for the same time, and judge them alike."""
    parser = Parser("compare", "Train every method on a data set for the same time; judge them alike in one table.")
    parser.add_argument("--data", type=str, default="digits", help="a data set that methods have recipes for")
    parser.add_argument("--budget", type=str, default="60s", help="training of each method: 120s, 2min or 1h")
    parser.add_argument("--methods", type=list[str], help="a [list] of them; by default all that there are")
    parser.add_argument("--seeds", type=int, default=1, help="how many; the table then has mean and deviation")
    parser.add_argument("-n", "--num_samples", type=int, help="samples judged; by default the recipes'")
    parser.add_argument(
        "-o", "--output", type=str, help="folder of the results; by default comparisons/DATA-BUDGET, gone on with"
    )
    options = parser.parse(arguments)

    from mmdflow.studies.compare import ComparisonSettings, budget_seconds, compare, order

    seconds = budget_seconds(options.budget)
    settings = ComparisonSettings(options.data, seconds, options.methods, options.seeds, options.num_samples)
    folder = Path(options.output or f"comparisons/{options.data}-{seconds:g}s")
    with on_interrupt(lambda: f"What is done is in {folder}; the same command goes on"):
        result = compare(settings, folder, progress=True)
    print(f"order:   {' > '.join(order(result['rows']))}")
    print(f"written: {folder / 'compare.md'}, {folder / 'compare.json'}, a grid a method")
