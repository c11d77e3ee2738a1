"""DMMD against its own parts, the paper's recipe, DDPM and flow matching, at equal seconds of training; one-step generators.

python benchmarks/generative.py SUITE [--seconds S] [--seeds 0 1 2] [--rows NAME ...] [--runs DIR] [--output FILE]
python benchmarks/generative.py one-step-mnist --seconds 1200 --seeds 0 --rows "batch drift" MMD-GAN --num-samples 2000

Suites: digits, mnist and fashion (rivals); by-class-digits, -mnist and -fashion, where all are told the classes; digits-parts,
one-step-features; and the rows of `mmdflow reproduce one-step`: one-step-digits, one-step-mnist, one-step-fashion. Every run
is `mmdflow train RECIPE` with the options that its row names and `--training.max_seconds=S`: seconds of one core's own time,
which other programs do not lengthen. It is judged with every sampler of its row. Finished runs are kept and interrupted ones
gone on with, so that an interrupted suite goes on, and a sampler that a row has gained is measured without training it anew.
The report keeps its other rows of as many seconds and samples.
"""

import argparse
import csv
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from mmdflow._files import write_json
from mmdflow.evaluation import models
from mmdflow.evaluation.figures import read_report
from mmdflow.runs import cache
from mmdflow.studies.compare import num_parameters
from mmdflow.studies.one_step import ROWS as ONE_STEP, TEXTURE

EXACT, APPROXIMATE = {"sampler": "exact"}, {"sampler": "approximate"}
BOTH = {"exact": EXACT, "approximate": APPROXIMATE}
#: One pass down the levels, in place of the paper's constant steps.
ONE_PASS = {"num_levels": 100, "steps_per_level": 1, "step_size": "distance"}
OF_PAPER = {
    "exact": EXACT,
    "approximate": APPROXIMATE,
    "exact, one pass": {**EXACT, **ONE_PASS},
    "approximate, one pass": {**APPROXIMATE, **ONE_PASS},
}
#: Judges of a report: the first chose settings, the others had no part in any choice.
JUDGES = ("frechet_distance", "report_distance", "random_distance")
KEYS = (
    *JUDGES,
    "sliced_w2",
    "mmd_p_value",
    "nearest_distance",
    "copying_z",
    "class_histogram",
    "class_confidence",
)


def rivals(data: str) -> dict:
    return {
        "DMMD, ours": (f"dmmd-{data}", {}, BOTH),
        "DMMD, the paper's recipe": (f"dmmd-paper-{data}", {}, OF_PAPER),
        "flow matching": (f"flow-matching-{data}", {}, {"its own": {}}),
        "DDPM": (f"ddpm-{data}", {}, {"ancestral 100": {}}),
    }


#: How a DMMD samples by class, chosen on MNIST (docs/lab/correctors.md).
GUIDED = {"by_class": True, "guidance": 2.0, "feedback": 2.0, "step_scale": 1.3, "final_level": 0.08, "final_steps": 1}


def by_class(data: str) -> dict:
    """Models that are told the classes of the data; of digits without guidance."""
    told = {"loss": {"by_class": True}}
    classes = {"by_class": True}
    if data == "digits":
        samplers = {name: {**how, **classes} for name, how in BOTH.items()}
        of_flow_matching, others = {"its own": {}}, {}
    else:
        samplers = {"by class": classes, "guidance 3": {**classes, "guidance": 3.0}, "other end": GUIDED}
        of_flow_matching = {"its own": {}, "guidance 0.5": {"guidance": 0.5}}
        others = {"one step": (*ONE_STEP[TEXTURE].recipe(data), {"one step": {}})}
    return {
        "DMMD": (f"dmmd-{data}", {}, samplers),
        "DMMD, trained by class": (f"dmmd-{data}", {**told, "sampling": classes}, samplers),
        "flow matching": (f"flow-matching-{data}", told, of_flow_matching),
        **others,
    }


def part(**changes: dict) -> tuple:
    return ("dmmd-digits", changes, BOTH)


def one_step(data: str) -> dict:
    """The rows of `mmdflow reproduce one-step`: the same generator in all of them."""
    return {name: (*row.recipe(data), {"one step": {}}) for name, row in ONE_STEP.items()}


def of_features() -> dict:
    """One-step generators of digits in pixels and in the features of the shipped DMMD."""

    def row(loss: dict | None = None, **spaces: object) -> tuple:
        return "dmmd-onestep-digits", {"spaces": spaces, "loss": loss or {}}, {"one step": {}}

    drift = {"field": "loss", "weight": None}
    return {
        "pixels alone": ("drifting-digits", {}, {"one step": {}}),
        "means of features, weight 0.3": row(),
        "means of features, weight 0.1": row(weight=0.1),
        "drift in features": row(**drift),
        "drift in features, 0.2 of the median distance alone": row({"bandwidths": [0.2]}, **drift),
        "drift in features and hidden states": row(**drift, hidden=True),
        "drift in features and hidden states, weight 1": row(field="loss", weight=1.0, hidden=True),
    }


def as_options(changes: dict, prefix: str = "--") -> list[str]:
    """Return changes of a recipe's fields as options of `mmdflow train`."""
    options = []
    for key, value in changes.items():
        if isinstance(value, dict):
            options += as_options(value, f"{prefix}{key}.")
        else:
            options.append(f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return options


SUITES = {
    "digits": rivals("digits"),
    "mnist": rivals("mnist"),
    "fashion": rivals("fashion"),
    **{f"by-class-{data}": by_class(data) for data in ("digits", "mnist", "fashion")},
    **{f"one-step-{data}": one_step(data) for data in ("digits", "mnist", "fashion")},
    "one-step-features": of_features(),
    "digits-parts": {
        "ours: 4 squared residuals, 124 flat features": part(),
        "4 squared residuals alone": part(
            features={"head": "squared_residual", "num_features": 4, "num_residuals": None}
        ),
        "128 flat features alone": part(features={"head": "flat", "num_residuals": None}),
        "4 and 12 features": part(features={"num_features": 16}),
        "1 squared residual": part(features={"num_residuals": 1}),
        "points uniform on segments": part(loss={"penalty_points": "segment", "pairing": "paired"}),
        "no MMD added": part(loss={"mmd_weight": 0.0}),
        "MMD weight 1": part(loss={"mmd_weight": 1.0}),
        "diversity weight 0.3": part(loss={"diversity_weight": 0.3}),
        "path: VP": part(schedule="vp"),
        "no final steps": part(sampling={"final_steps": 0}),
    },
}
SEEDS = [0, 1, 2]
SECONDS = {
    "digits": 120.0,
    "digits-parts": 40.0,
    "mnist": 3000.0,
    "fashion": 3000.0,
    "by-class-digits": 120.0,
    "by-class-mnist": 1200.0,
    "by-class-fashion": 1200.0,
    "one-step-digits": 120.0,
    "one-step-mnist": 1200.0,
    "one-step-fashion": 1200.0,
    "one-step-features": 15.0,
}


def losses(folder: Path) -> dict:
    """Return the logged values at the end, and the extremes over training, of the monitors of collapse and divergence."""
    rows = [row for file in sorted(folder.glob("logs/*/metrics.csv")) for row in csv.DictReader(file.open())]
    found = {}
    for key in ("loss", "slope", "contrast", "participation"):
        values = [float(row[key]) for row in rows if row.get(key)]
        if values:
            found[key] = {"first": values[0], "last": values[-1], "least": min(values), "most": max(values)}
    return found


def measure(suite: str, name: str, seed: int, seconds: float, runs: Path, num_samples: int | None) -> dict:
    recipe_name, changes, samplers = SUITES[suite][name]
    recipe = cache.timed_recipe(recipe_name, seed=seed, seconds=seconds, changes=changes)
    folder = cache.run_folder(recipe_name, recipe, runs)
    result = folder / f"row-{num_samples or 'recipe'}.json"
    row = read_report(result) if result.exists() else {"samplers": {}}
    row |= {"row": name, "options": as_options(changes)}  # another row may say the same recipe in other words
    if samplers.keys() <= row["samplers"].keys():
        return row
    pipeline = cache.trained(recipe_name, runs, seed=seed, progress=False, seconds=seconds, changes=changes)
    made = pipeline.provenance
    row |= {
        "seed": seed,
        "seconds": seconds,
        "recipe": recipe_name,
        "steps": made["steps"],
        "train_seconds": made["train_seconds"],
        "commit": made["commit"],
        "parameters": num_parameters(pipeline),
        "monitors": losses(folder) or row.get("monitors", {}),
    }
    for sampler, how in samplers.items():
        if sampler in row["samplers"]:
            continue
        figure = folder / f"{sampler.replace(' ', '-')}.png"
        report = models.evaluate(pipeline, num_samples=num_samples, figure=figure, **how)
        row["samplers"][sampler] = {
            **{key: report.get(key) for key in KEYS},
            "nfe": report["nfe"],
            "sample_seconds": report["sample_seconds"],
            "num_samples": report["num_samples"],
        }
        row["reference"] = {k: v for k, v in report.items() if k.endswith(("_reference", "_random_split"))}
        row["features"] = report["features"]
        write_json(result, row)
    return row


def merged(output: Path, row: dict, names: list[str]) -> list[dict]:
    """Return the rows of a report with one more, in the order of the suite; those of as many seconds and samples."""

    def judged(row: dict) -> tuple:
        return row["seconds"], {sampler["num_samples"] for sampler in row["samplers"].values()}

    rows = [old for old in read_report(output)["rows"] if judged(old) == judged(row)] if output.exists() else []
    rows = list({(r["row"], r["seed"]): r for r in [*rows, row] if r["row"] in names}.values())
    return sorted(rows, key=lambda r: (names.index(r["row"]), r["seed"]))


def command(suite: str, seconds: float, num_samples: int | None, rows: list[dict], names: list[str]) -> str:
    """Return what measures the rows."""
    found, seeds = list(dict.fromkeys(row["row"] for row in rows)), sorted({row["seed"] for row in rows})
    words = [suite]
    words += [] if seconds == SECONDS[suite] else ["--seconds", f"{seconds:g}"]
    words += [] if seeds == SEEDS else ["--seeds", *map(str, seeds)]
    words += [] if found == names else ["--rows", *found]
    words += [] if num_samples is None else ["--num-samples", str(num_samples)]
    quoted = [f'"{word}"' if " " in word else word for word in words]
    return f"python benchmarks/generative.py {' '.join(quoted)}"


def summary(rows: list[dict]) -> list[dict]:
    """Mean and spread over seeds of every row and sampler."""
    table = []
    for name in dict.fromkeys(row["row"] for row in rows):
        of_row = [row for row in rows if row["row"] == name]
        for sampler in of_row[0]["samplers"]:
            values = {judge: [row["samplers"][sampler][judge] for row in of_row] for judge in JUDGES}
            table.append(
                {
                    "row": name,
                    "sampler": sampler,
                    "seeds": [row["seed"] for row in of_row],
                    **values,
                    "mean": {judge: statistics.fmean(found) for judge, found in values.items()},
                    "spread": {judge: statistics.stdev(found) for judge, found in values.items() if len(found) > 1},
                    "nfe": of_row[0]["samplers"][sampler]["nfe"],
                    "steps": statistics.fmean(row["steps"] for row in of_row),
                    "train_seconds": statistics.fmean(row["train_seconds"] for row in of_row),
                }
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--rows", nargs="+", metavar="ROW")
    parser.add_argument("--num-samples", type=int)
    parser.add_argument("--runs")
    parser.add_argument("--output")
    options = parser.parse_args()
    names = list(SUITES[options.suite])
    for name in set(options.rows or names) - set(names):
        parser.error(f"--rows {name!r}: must be among {', '.join(map(repr, names))}")
    torch.set_num_threads(1)
    seconds = SECONDS[options.suite] if options.seconds is None else options.seconds
    runs = Path(options.runs or f"runs/{options.suite}")
    of_seconds = "" if seconds == SECONDS[options.suite] else f"-{seconds:g}"
    output = Path(options.output or f"results/equal-{options.suite}{of_seconds}.json")
    for seed in options.seeds:
        for name in options.rows or names:
            row = measure(options.suite, name, seed, seconds, runs, options.num_samples)
            found = ", ".join(
                f"{k} {' / '.join(f'{v[judge]:.2f}' for judge in JUDGES)} (NFE {v['nfe']})"
                for k, v in row["samplers"].items()
            )
            print(f"seed {seed}  {row['steps']:6d} steps {row['train_seconds']:6.0f} s  {name}: {found}", flush=True)
            rows = merged(output, row, names)
            report = {
                "command": command(options.suite, seconds, options.num_samples, rows, names),
                "seconds": seconds,
                "date": time.strftime("%Y-%m-%d"),
                "machine": f"{platform.machine()}, 1 thread a run, torch {torch.__version__}, Python {platform.python_version()}",
                "reference": row["reference"],
                "features": row["features"],
                "summary": summary(rows),
                "rows": [{k: v for k, v in r.items() if k not in ("reference", "features")} for r in rows],
            }
            write_json(output, report)


if __name__ == "__main__":
    sys.exit(main())
