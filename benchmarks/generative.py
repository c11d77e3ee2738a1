"""DMMD against its own parts, the paper's recipe, DDPM and flow matching, at equal seconds of training, by one classifier.

python benchmarks/generative.py SUITE [--seconds S] [--seeds 0 1 2] [--rows NAME ...] [--runs DIR] [--output FILE]

Suites: digits (rivals), digits-ablation, digits-stability, mnist, fashion, mnist-curve and fashion-curve (shorter and longer
training). Every run is `mmdflow train RECIPE` with the options that its row names and `--training.max_seconds=S`: seconds of one
core's own time, which other programs do not lengthen. It is judged by the same classifier with every sampler of its row.
Finished runs are kept, so that an interrupted suite goes on, and a sampler that a row has gained is measured without training it
anew; the report keeps the rows that it had, unless measured anew.
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

from mmdflow.cli.train import recipe_from
from mmdflow.evaluation import models
from mmdflow.evaluation.figures import read_report
from mmdflow.methods import load_pipeline, recipe_path
from mmdflow.runs import train as runs
from mmdflow.studies.compare import num_parameters

EXACT, APPROXIMATE = {"sampler": "exact"}, {"sampler": "approximate"}
BOTH = {"exact": EXACT, "approximate": APPROXIMATE}
ADAMS = {"integrator": "adams_bashforth"}
#: Euler's walk, which every row had before Adams's, and Adams's.
WALKS = {
    "exact": {**EXACT, "integrator": "euler"},
    "exact, Adams": {**EXACT, **ADAMS},
    "exact, Adams, 25 levels": {**EXACT, **ADAMS, "num_levels": 25},
}
KEYS = (
    "frechet_distance",
    "sliced_w2",
    "mmd_p_value",
    "nearest_distance",
    "class_histogram",
    "class_confidence",
)

#: The paper's recipe in our terms: flat head, unit penalty on interpolates, VP path, plain MMD, disjoint halves. Its penalty
#: weights are not at hand: 0.3 times the MMD^2 that unit slope can reach, sqrt(D) d_1, is what trained it best in earlier trials,
#: where an l2 weight of 0.01 changed nothing and 0.1 made it slightly worse. It is also judged with our final steps.
PAPER = [
    "--features.head=flat",
    "--features.num_features=128",
    "--features.gradient=full",
    "--loss.witness=mmd2",
    "--loss.mmd_weight=1",
    "--loss.unit_weight=3",
    "--loss.displacement_weight=0",
    "--loss.penalty_points=interpolate",
    "--loss.pairing=disjoint",
    "--loss.normalize=false",
    "--loss.level_power=1",
    "--schedule=vp",
    "--sampling.final_steps=0",
    "--sampling.integrator=euler",
    "--training.step_size=0.001",
]
FOUR = ["--features.num_features=4", "--loss.witness=mmd2"]
FULL = [*FOUR, "--features.gradient=full", "--loss.penalty_points=path", "--loss.mmd_weight=0.1"]
SEMI = ["--features.gradient=semi", "--loss.penalty_points=noisy", "--loss.mmd_weight=0"]


#: The trunk that DMMD's recipes of 28x28 images had before, and the paper's recipe has still: its double backward is dear.
COARSE = [
    "--features.channels=[96]",
    "--features.blocks=3",
    "--features.patch=4",
    "--training.weight_decay=0.01",
]
#: What ours had with it.
BEFORE = [*COARSE, "--training.step_size=0.002", "--sampling.integrator=euler"]


#: What DDPM had before it got what a search on digits had found (docs/baselines.md).
UNSEARCHED = [
    "--schedule=ddpm",
    "--training.weight_decay=0.01",
    "--training.step_size=0.002",
    "--training.batch_size=64",
]
#: What it had then, before the search on MNIST (benchmarks/search.py) found what its recipes have now.
COSINE = ["--training.step_size=0.004", "--training.batch_size=64"]


#: Quicker than bfloat16 by 1.4 on a core that refuses AMX (benchmarks/precision.py), as that of the runs that have it does.
FLOAT32 = ["--training.precision=float32", "--training.channels_last=true"]


#: With and without our final steps, whose level and size are the recipe's.
OF_PAPER = {**BOTH, "approximate, 2 final steps": {**APPROXIMATE, "final_steps": 2}}


def images(data: str) -> dict:
    return {
        "DMMD, ours": (f"dmmd-{data}", [], BOTH),
        "DDPM": (f"ddpm-{data}", UNSEARCHED, {"ancestral 100": {}}),
        "DMMD, the paper's recipe": (f"dmmd-{data}", [*PAPER, *COARSE, "--loss.unit_weight=9"], OF_PAPER),
        "DDPM, cosine path, no weight decay": (f"ddpm-{data}", COSINE, {"ancestral 100": {}}),
        "DDPM, small batches": (f"ddpm-{data}", [], {"ancestral 100": {}}),
        "DMMD, coarse trunk": (f"dmmd-{data}", BEFORE, BOTH),
        "DMMD, coarse trunk, four features, witness of MMD^2": (f"dmmd-{data}", [*BEFORE, *FOUR], BOTH),
        "DMMD, the paper's recipe, fine trunk": (f"dmmd-{data}", [*PAPER, "--loss.unit_weight=9"], OF_PAPER),
        "flow matching": (f"flow-matching-{data}", [], {"heun 50": {}}),
    }


def curve(data: str) -> dict:
    """The same systems, each trained anew for a third and three times the seconds of `images`, or longer without AMX."""
    systems = {
        "DMMD, ours": (f"dmmd-{data}", [], {"exact": WALKS["exact"]}),
        "DDPM": (f"ddpm-{data}", COSINE, {"ancestral 100": {}}),
        "DDPM, small batches": (f"ddpm-{data}", [], {"ancestral 100": {}}),
        "DMMD, the paper's recipe": (f"dmmd-{data}", [*PAPER, *COARSE, "--loss.unit_weight=9"], BOTH),
        "DMMD, coarse trunk": (f"dmmd-{data}", BEFORE, {"exact": EXACT}),
    }
    rows = {f"{name}, {seconds} s": (*system, seconds) for seconds in (133, 1200) for name, system in systems.items()}
    systems["DMMD, the paper's recipe, fine trunk"] = images(data)["DMMD, the paper's recipe, fine trunk"]
    systems["DMMD, wider trunk"] = (f"dmmd-{data}", ["--features.channels=[48,96]"], {})
    adams = {"exact, Adams": WALKS["exact, Adams"]}
    without_amx: tuple[tuple[str, int, dict], ...] = (
        ("DMMD, ours", 3000, WALKS),
        ("DDPM, small batches", 3000, {"ancestral 100": {}}),
        ("DMMD, the paper's recipe, fine trunk", 1200, OF_PAPER),
        ("DMMD, the paper's recipe, fine trunk", 3000, OF_PAPER),
        ("DMMD, ours", 5400, adams),
        ("DMMD, wider trunk", 5400, adams),
    )
    for name, seconds, samplers in without_amx:
        recipe, options, _ = systems[name]
        rows[f"{name}, {seconds} s"] = (recipe, [*options, *FLOAT32], samplers, seconds)
    return rows


def ablation(*changes: str) -> tuple:
    return ("dmmd-digits", [*FULL, *changes], BOTH)


SUITES = {
    "digits": {
        "DMMD, ours": ("dmmd-digits", [], BOTH),
        "DDPM": ("ddpm-digits", [], {"ancestral 100": {}}),
        "flow matching": ("flow-matching-digits", [], {"heun 50": {}}),
        "DMMD, the paper's recipe": ("dmmd-digits", PAPER, OF_PAPER),
    },
    "mnist": images("mnist"),
    "fashion": images("fashion"),
    "mnist-curve": curve("mnist"),
    "fashion-curve": curve("fashion"),
    "digits-ablation": {
        "full gradient, displacement, straight path, MMD weight 0.1, K = 4": ablation(),
        "semi-gradient, no MMD term": ("dmmd-digits", SEMI, BOTH),
        "semi-gradient, K = 1, witness of the MMD": (
            "dmmd-digits",
            [*SEMI, "--features.num_features=1", "--loss.witness=mmd"],
            BOTH,
        ),
        "head: flat, K = 128": ablation("--features.head=flat", "--features.num_features=128"),
        "penalty: unit, MMD weight 1": ablation(
            "--loss.unit_weight=1", "--loss.displacement_weight=0", "--loss.mmd_weight=1"
        ),
        "penalty: unit + 0.3 displacement, MMD weight 1": ablation(
            "--loss.unit_weight=1", "--loss.displacement_weight=0.3", "--loss.mmd_weight=1"
        ),
        "path: VP": ablation("--schedule=vp"),
        "MMD weight 1": ablation("--loss.mmd_weight=1"),
        "MMD weight 0": ablation("--loss.mmd_weight=0"),
        "heads: K = 1": ablation("--features.num_features=1"),
        "heads: K = 16": ablation("--features.num_features=16"),
        "no final steps": ablation("--sampling.final_steps=0"),
        "the paper's recipe": ("dmmd-digits", PAPER, OF_PAPER),
        "the paper's, squared-residual head, K = 4": (
            "dmmd-digits",
            [*PAPER, "--features.head=squared_residual", "--features.num_features=4"],
            BOTH,
        ),
        "the paper's, straight path": ("dmmd-digits", [*PAPER, "--schedule=linear"], BOTH),
        "the paper's, displacement penalty": (
            "dmmd-digits",
            [*PAPER, "--loss.unit_weight=0", "--loss.displacement_weight=1", "--loss.penalty_points=path"],
            BOTH,
        ),
    },
    "digits-stability": {
        "full gradient, 20 000 steps": ("dmmd-digits", [*FULL, "--training.max_steps=20000"], BOTH),
        "the recipe's defaults, 20 000 steps": ("dmmd-digits", ["--training.max_steps=20000"], BOTH),
    },
}
SECONDS = {"digits": 100.0, "digits-ablation": 40.0, "mnist": 400.0, "fashion": 400.0}


def train(recipe_name: str, options: list[str], seconds: float | None, seed: int, folder: Path) -> None:
    if (folder / "pipeline").exists():
        return
    fixed = [f"--training.seed={seed}", "--training.sample_every=0", "--training.checkpoint_every=1000000"]
    if seconds is not None:
        fixed += [f"--training.max_seconds={seconds}", "--training.max_steps=1000000"]
    recipe = recipe_from(recipe_path(recipe_name), [*options, *fixed])
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
            values = [row["samplers"][sampler]["frechet_distance"] for row in of_row]
            table.append(
                {
                    "row": name,
                    "sampler": sampler,
                    "seeds": [row["seed"] for row in of_row],
                    "frechet_distance": values,
                    "mean": statistics.fmean(values),
                    "spread": statistics.stdev(values) if len(values) > 1 else None,
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
    output = Path(options.output or f"results/dmmd-{options.suite}.json")
    names = list(SUITES[options.suite])
    command = f"python benchmarks/generative.py {options.suite}"
    if seconds != SECONDS.get(options.suite):
        command += f" --seconds {seconds:g}"
    for seed in options.seeds:
        for name in options.rows or names:
            row = measure(options.suite, name, seed, seconds, runs, options.num_samples)
            found = ", ".join(f"{k} {v['frechet_distance']:.2f} (NFE {v['nfe']})" for k, v in row["samplers"].items())
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
