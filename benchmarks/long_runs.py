"""Memory over long runs: 200 000 steps of a small flow, 20 000 of a small training; each also with Python's development checks.

python benchmarks/long_runs.py [--only flow|training] [--flow 200000] [--training 20000] [--output results]

Writes long-runs.json and long-runs.png; with --only the other runs of the file stay. A run has a process of its own, on one
thread. At 200 moments it notes its resident memory, the files that it has open and its threads. Under `python -X dev` every
warning is noted, also those of objects that are collected, and counted as ours where its file is one of mmdflow. The flow changes
between a sum over pairs, a compiled one and a sliced one from step to step, with momentum and noise, and evaluates F now and
then. The training is of a small DMMD on the digits, with its checkpoints and logs.
"""

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOMENTS = 200


class Watch:
    """What a process holds at some moments of a run of so many steps."""

    def __init__(self, steps: int) -> None:
        self.every, self.rows = max(1, steps // MOMENTS), []

    def __call__(self, step: int) -> None:
        """Note it, where that many steps are one of the moments."""
        if step % self.every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            files = len(os.listdir("/proc/self/fd"))
            self.rows.append(
                {"step": step, "mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20}
                | {"files": files, "threads": int(status["Threads"])}
            )


def flow(steps: int, watch: Watch) -> None:
    import torch

    from mmdflow import MMD, Gaussian, SlicedMMD, flow as run, ops

    generator = torch.Generator().manual_seed(0)
    target, particles = torch.randn(60, 2, generator=generator), torch.randn(50, 2, generator=generator) / 3
    compiled = MMD(target, Gaussian(0.5))
    velocity = compiled.velocity

    def by_loops(*points: Any) -> Any:
        with ops.backend("compiled"):
            return velocity(*points)

    compiled.velocity = by_loops  # type: ignore[method-assign]
    fields = [MMD(target), compiled, SlicedMMD(target, 4, generator=generator)]
    run(
        lambda step: fields[step % 3],
        particles,
        step_size=0.01,
        momentum=0.5,
        noise_injection=0.01,
        num_steps=steps,
        save_every=max(1, steps // 100),
        callback=lambda step, x: watch(step),
        generator=generator,
    )


def training(steps: int, watch: Watch) -> None:
    import lightning

    from mmdflow.methods import get_method
    from mmdflow.recipe.data import load_data
    from mmdflow.runs.read import read_recipe
    from mmdflow.training import LossModule, fit

    class Watching(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
            watch(trainer.global_step)

    recipe = read_recipe(
        "dmmd-digits",
        {
            "features": {"num_features": 8, "head": "flat", "num_residuals": None, "width": 16, "depth": 1},
            "loss": {"num_levels": 2},
            "training": {"max_steps": steps, "events_per_level": 8, "checkpoint_every": max(1, steps // 20)},
        },
    )
    data, system = load_data(recipe.data), get_method(recipe.system).make_system()
    loss = system.loss(recipe, data)
    with tempfile.TemporaryDirectory() as folder:
        module = LossModule(loss, system.learned(loss), recipe.training)
        Path(folder, "checkpoints").mkdir()
        options = {"batch_size": recipe.batch_size, "callbacks": [Watching()], "progress": False}
        fit(module, data.train, Path(folder), **options)


RUNS: dict[str, Callable[[int, Watch], None]] = {"flow": flow, "training": training}


def watched(name: str, steps: int) -> dict[str, Any]:
    """Make a run in this process; return what was held, and the warnings."""
    seen: collections.Counter[tuple[str, str, str]] = collections.Counter()

    def note(message: Any, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        seen[category.__name__, filename, str(message)] += 1

    warnings.showwarning = note
    import torch

    import mmdflow

    torch.set_num_threads(1)
    ours, watch = str(Path(mmdflow.__file__).parent), Watch(steps)
    RUNS[name](steps, watch)
    said = [
        {"category": category, "file": Path(file).name, "message": message[:200], "times": times, "ours": ours in file}
        for (category, file, message), times in sorted(seen.items())
    ]
    return {"rows": watch.rows, "warnings": said, "dev": sys.flags.dev_mode}


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return how memory, files and threads grew from the third tenth to the last: by medians."""
    part = max(1, len(rows) // 10)
    early, late = rows[2 * part : 3 * part], rows[-part:]
    return {
        key: statistics.median(row[key] for row in late) - statistics.median(row[key] for row in early)
        for key in ("mb", "files", "threads")
    }


def draw(report: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    from mmdflow.plots import draw as drawn, save_picture

    def fill(figure: Figure) -> None:
        names = list(dict.fromkeys(run["run"] for run in report["runs"]))
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for run in (run for run in report["runs"] if run["run"] == name):
                steps, memory = ([row[key] for row in run["rows"]] for key in ("step", "mb"))
                axes.plot(steps, memory, label="python -X dev" if run["dev"] else "python")
            axes.set_title(f"{name}: memory over the steps")
            axes.set_xlabel("step")
            axes.set_ylabel("resident memory, MB")
            axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
            axes.legend(loc="lower left")

    save_picture(drawn(fill), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(RUNS))
    parser.add_argument("--flow", type=int, default=200_000, help="steps")
    parser.add_argument("--training", type=int, default=20_000, help="steps")
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--apart", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apart is not None:
        print(json.dumps(watched(options.apart[0], int(options.apart[1]))))
        return
    from measure import provenance

    from mmdflow._files import make_folder, read_json, write_json

    make_folder(options.output)
    file, head = options.output / "long-runs.json", {"command": " ".join(["python", *sys.argv]), **provenance()}
    report: dict[str, Any] = {"runs": []}
    if options.only is not None and file.exists():
        report = {"runs": [run for run in read_json(file)["runs"] if run["run"] != options.only]}
    for name in RUNS if options.only is None else [options.only]:
        for flags in ([], ["-X", "dev"]):
            steps = getattr(options, name)
            command = [sys.executable, *flags, __file__, "--apart", name, str(steps)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            run = {"run": name, "steps": steps, **head, **json.loads(done.stdout.splitlines()[-1])}
            run["growth"] = growth(run["rows"])
            report["runs"].append(run)
            grown = ", ".join(f"{key} {number:+.1f}" for key, number in run["growth"].items())
            ours = sum(said["times"] for said in run["warnings"] if said["ours"])
            print(
                f"{name:<10}{steps:>8} steps{' -X dev' if flags else '':<8} grew by {grown}; warnings of ours: {ours}",
                flush=True,
            )
            write_json(file, report)
    draw(report, file.with_suffix(".png"))
    print(f"written: {file}, {file.with_suffix('.png')}", flush=True)


if __name__ == "__main__":
    main()
