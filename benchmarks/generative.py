"""DMMD against its own parts, the paper's recipe, DDPM and flow matching, at equal seconds of training; one-step generators.

python benchmarks/generative.py SUITE [--seconds S] [--seeds 0 1 2] [--rows NAME ...] [--runs DIR] [--output FILE]
python benchmarks/generative.py one-step-mnist --seconds 1200 --seeds 0 --rows "batch drift" MMD-GAN --num-samples 2000

Suites: digits, mnist and fashion (rivals), digits-parts, and the rows of `mmdflow reproduce one-step`: one-step-digits,
one-step-mnist, one-step-fashion. Every run is `mmdflow train RECIPE` with the options that its row names and
`--training.max_seconds=S`: seconds of one core's own time, which other programs do not lengthen. It is judged with every sampler
of its row. Finished runs are kept and interrupted ones gone on with, so that an interrupted suite goes on, and a sampler that a
row has gained is measured without training it anew; the report keeps the rows that it had, unless measured anew.
"""

import argparse
import hashlib
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from mmdflow._run_folder import RECIPE
from mmdflow.cli.train import recipe_from
from mmdflow.evaluation import models
from mmdflow.evaluation.figures import read_report
from mmdflow.methods import load_pipeline, recipe_path
from mmdflow.runs import train as runs
from mmdflow.runs.read import read_recipe
from mmdflow.studies.compare import num_parameters
from mmdflow.studies.one_step import ROWS as ONE_STEP

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
    "class_histogram",
    "class_confidence",
)


def rivals(data: str) -> dict:
    return {
        "DMMD, ours": (f"dmmd-{data}", [], BOTH),
        "DMMD, the paper's recipe": (f"dmmd-paper-{data}", [], OF_PAPER),
        "flow matching": (f"flow-matching-{data}", [], {"its own": {}}),
        "DDPM": (f"ddpm-{data}", [], {"ancestral 100": {}}),
    }


def part(*changes: str) -> tuple:
    return ("dmmd-digits", [*changes], BOTH)


def one_step(data: str) -> dict:
    """The rows of `mmdflow reproduce one-step`: the same generator in all of them."""
    recipes = {name: row.recipe(data) for name, row in ONE_STEP.items()}
    return {name: (recipe, as_options(changes), {"one step": {}}) for name, (recipe, changes) in recipes.items()}


def as_options(changes: dict, prefix: str = "--") -> list[str]:
    """Changes of a recipe's fields as options of `mmdflow train`."""
    options = []
    for key, value in changes.items():
        if isinstance(value, dict):
            options += as_options(value, f"{prefix}{key}.")
        else:
            options.append(f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return options


ALONE = "--features.num_residuals=null"
SUITES = {
    "digits": rivals("digits"),
    "mnist": rivals("mnist"),
    "fashion": rivals("fashion"),
    **{f"one-step-{data}": one_step(data) for data in ("digits", "mnist", "fashion")},
    "digits-parts": {
        "ours: 4 squared residuals, 124 flat features": part(),
        "4 squared residuals alone": part("--features.head=squared_residual", "--features.num_features=4", ALONE),
        "128 flat features alone": part("--features.head=flat", ALONE),
        "4 and 12 features": part("--features.num_features=16"),
        "1 squared residual": part("--features.num_residuals=1"),
        "points uniform on segments": part("--loss.penalty_points=segment", "--loss.pairing=paired"),
        "no MMD added": part("--loss.mmd_weight=0"),
        "MMD weight 1": part("--loss.mmd_weight=1"),
        "diversity weight 0.3": part("--loss.diversity_weight=0.3"),
        "path: VP": part("--schedule=vp"),
        "no final steps": part("--sampling.final_steps=0"),
    },
}
SECONDS = {
    "digits": 120.0,
    "digits-parts": 40.0,
    "mnist": 3000.0,
    "fashion": 3000.0,
    "one-step-digits": 120.0,
    "one-step-mnist": 1200.0,
    "one-step-fashion": 1200.0,
}


def train(recipe_name: str, options: list[str], seconds: float | None, seed: int, folder: Path) -> None:
    if (folder / "pipeline").exists():
        return
    fixed = [f"--training.seed={seed}", "--training.sample_every=0"]
    if seconds is not None:
        fixed += [f"--training.max_seconds={seconds}", "--training.max_steps=1000000"]
    recipe = recipe_from(recipe_path(recipe_name), [*options, *fixed])
    if not (folder / RECIPE).exists() or read_recipe(folder / RECIPE) != recipe:  # else it goes on from its checkpoint
        runs.build_check(recipe)
        runs.open_run(recipe, folder, overwrite=True)
    runs.train(recipe, folder, progress=False, clock=time.process_time)


def losses(folder: Path) -> dict:
    """The logged values at the end, and the extremes over training, of the monitors of collapse and divergence."""
    import csv

    rows = [row for file in sorted(folder.glob("logs/*/metrics.csv")) for row in csv.DictReader(file.open())]
    found = {}
    for key in ("loss", "slope", "contrast", "participation"):
        values = [float(row[key]) for row in rows if row.get(key)]
        if values:
            found[key] = {"first": values[0], "last": values[-1], "least": min(values), "most": max(values)}
    return found


def measure(suite: str, name: str, seed: int, seconds: float | None, runs: Path, num_samples: int | None) -> dict:
    recipe_name, options, samplers, *own = SUITES[suite][name]
    seconds = own[0] if own else seconds
    asked = [name, recipe_name, options, seconds, seed, num_samples]
    folder = runs / f"{seed}-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]}"  # nothing else is in it
    result = folder / "row.json"
    row = read_report(result) if result.exists() else {"samplers": {}}
    if samplers.keys() <= row["samplers"].keys():
        return row
    train(recipe_name, options, seconds, seed, folder)
    pipeline = load_pipeline(folder)
    made = pipeline.provenance
    row |= {
        "row": name,
        "seed": seed,
        "seconds": seconds,
        "recipe": recipe_name,
        "options": options,
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
        result.write_text(json.dumps(row, indent=1) + "\n")
    return row


def before(output: Path, seconds: float | None) -> list[dict]:
    """Return the rows of a report that is there already."""
    rows = read_report(output)["rows"] if output.exists() else []
    return [{"seconds": seconds, **row} for row in rows]


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--num-samples", type=int)
    parser.add_argument("--runs")
    parser.add_argument("--output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds = SECONDS.get(options.suite) if options.seconds is None else options.seconds
    runs = Path(options.runs or f"runs/{options.suite}")
    names = list(SUITES[options.suite])
    command, title = f"python benchmarks/generative.py {options.suite}", f"equal-{options.suite}"
    if seconds != SECONDS.get(options.suite):
        command, title = f"{command} --seconds {seconds:g}", f"{title}-{seconds:g}"
    output = Path(options.output or f"results/{title}.json")
    if options.num_samples is not None:
        command += f" --num-samples {options.num_samples}"
    for seed in options.seeds:
        for name in options.rows or names:
            row = measure(options.suite, name, seed, seconds, runs, options.num_samples)
            found = ", ".join(
                f"{k} {' / '.join(f'{v[judge]:.2f}' for judge in JUDGES)} (NFE {v['nfe']})"
                for k, v in row["samplers"].items()
            )
            print(f"seed {seed}  {row['steps']:6d} steps {row['train_seconds']:6.0f} s  {name}: {found}", flush=True)
            rows = before(output, seconds) + [read_report(file) for file in sorted(runs.glob("*/row.json"))]
            rows = list({(r["row"], r["seed"], r["seconds"]): r for r in rows if r["row"] in names}.values())
            rows = [r for r in rows if seconds is None or r["seconds"] == seconds]
            rows.sort(key=lambda r: (names.index(r["row"]), r["seed"]))
            report = {
                "command": command,
                "seconds": seconds,
                "date": time.strftime("%Y-%m-%d"),
                "machine": f"{platform.machine()}, 1 thread a run, torch {torch.__version__}, Python {platform.python_version()}",
                "reference": row["reference"],
                "features": row["features"],
                "summary": summary(rows),
                "rows": [{k: v for k, v in r.items() if k not in ("reference", "features")} for r in rows],
            }
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
