"""What made DMMD good on digits: from the paper's recipe to ours, one change at a time, judged by the same classifier.

python benchmarks/digits.py [--output results/digits.json] [--runs runs/digits-ablation] [--seconds 115] [--rows 8]

Every row is `mmdflow train dmmd-digits` with the options that the report names, for as many steps as fit into --seconds of
training (timed over 300 steps first; ours has its own 10000), and is judged with both samplers. Finished runs are kept.
"""

import argparse
import json
import platform
import shutil
import time
from pathlib import Path

import torch

from mmdflow import DMMDPipeline
from mmdflow._options import parse
from mmdflow.cli import _recipe, _train_parser
from mmdflow.recipes import recipe_path, run

PLAIN = ["--sampling.final_steps=0"]
DISJOINT = ["--loss.pairing=disjoint"]
UNIFORM = ["--loss.level_power=1.0", "--training.weight_decay=0"]
MANY_LEVELS = ["--loss.num_levels=16", "--training.events_per_level=8"]
ROWS = {
    "ours, seed 0": [],
    "ours, seed 1": ["--training.seed=1"],
    "ours, seed 2": ["--training.seed=2"],
    "disjoint halves": DISJOINT,
    "disjoint, no final steps": [*DISJOINT, *PLAIN],
    "disjoint, no final steps, uniform levels, no weight decay": [*DISJOINT, *PLAIN, *UNIFORM],
    "the recipe file's settings (16 levels x 8 besides)": [*DISJOINT, *PLAIN, *UNIFORM, *MANY_LEVELS],
    "the paper's: flat head, unit penalty, VP path, MMD weight 1": [
        *DISJOINT,
        *PLAIN,
        *UNIFORM,
        *MANY_LEVELS,
        "--features.head=flat",
        "--features.num_features=128",
        "--loss.unit_weight=0.3",
        "--loss.displacement_weight=0",
        "--loss.mmd_weight=1",
        "--loss.normalize=false",
        "--loss.penalty_points=interpolate",
        "--schedule=vp",
    ],
}


def settings(options: list[str], steps: int):
    parser = _train_parser()
    quiet = ["--training.sample_every=0", f"--training.max_steps={steps}"]
    return _recipe(parser, parse(parser, [f"--config={recipe_path('dmmd-digits')}", *options, *quiet]))


def seconds_a_step(options: list[str], scratch: Path) -> float:
    shutil.rmtree(scratch, ignore_errors=True)
    recipe = settings(options, 300)
    run.open_run(recipe, scratch)
    seconds = run.train(recipe, scratch, progress=False).provenance["train_seconds"] / 300
    shutil.rmtree(scratch)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="results/digits.json")
    parser.add_argument("--runs", default="runs/digits-ablation")
    parser.add_argument("--seconds", type=float, default=115.0)
    parser.add_argument("--rows", type=int, default=len(ROWS), help="how many rows, from the first")
    options = parser.parse_args()
    rows = []
    for i, (name, overrides) in enumerate(list(ROWS.items())[: options.rows]):
        folder = Path(options.runs) / f"row-{i}"
        if not (folder / "pipeline").exists():
            if not (folder / "recipe.yaml").exists():
                ours = not overrides or overrides[0].startswith("--training.seed")
                steps = (
                    10_000
                    if ours
                    else round(options.seconds / seconds_a_step(overrides, Path(options.runs) / "timing"))
                )
                run.open_run(settings(overrides, steps), folder)
            parser_ = _train_parser()
            recipe = _recipe(parser_, parse(parser_, [f"--config={folder / 'recipe.yaml'}"]))
            run.train(recipe, folder, progress=False)
        pipeline = DMMDPipeline.from_pretrained(folder)
        row = {"row": name, "options": overrides, "steps": pipeline.provenance["steps"]}
        row["train_seconds"] = pipeline.provenance["train_seconds"]
        for sampler in ("exact", "approximate"):
            keys = ("classifier_fd", "sliced_w2", "mmd_p_value", "nearest_train_distance", "class_histogram", "nfe")
            report = run.evaluate(pipeline, sampler=sampler)
            row[sampler] = {key: report[key] for key in keys}
        rows.append(row)
        fd = [row[sampler]["classifier_fd"] for sampler in ("exact", "approximate")]
        print(f"{fd[0]:8.2f} {fd[1]:8.2f}  {row['train_seconds']:6.0f} s {row['steps']:6d} steps  {name}", flush=True)
    reference = {k: report[k] for k in report if k.endswith(("_reference", "_random_split"))} | {
        "classifier": report["classifier"]
    }
    result = {
        "command": "python benchmarks/digits.py",
        "commit": pipeline.provenance["commit"],
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "reference": reference,
        "rows": rows,
    }
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
