"""What `mmdflow flow --plan` says beside runs of 1, 2 and 4 processes: the time of a step and the peak memory of a process.

python benchmarks/plan.py [--only pairs,line,...] [--ranks 1 2 4] [--scale full|small] [--output results]

Writes plan.json; with --only the other cases of the file stay. Every plan and every run is made in processes of their own, forks
of one that has loaded the library alone, on one thread each. The time of a step is the quickest of the run's steps in seconds of
the process, the slowest process's: that of processes with a core each. A plan is made before the run, and sees nothing of it.
Steps that would last longer than LONGEST are planned alone, and so is what has 1e9 particles.
"""

import argparse
import itertools
import math
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from fresh import peak_mb
from measure import Table, provenance

from mmdflow import distributed
from mmdflow._files import make_folder, read_json, write_json
from mmdflow.recipe import DivergenceSpec, FlowSpec
from mmdflow.runs.particles import Prepared, run_flow
from mmdflow.runs.plan import plan_flow

STEPS, LONGEST = 4, 10.0
#: Columns, particles, targets, fields of the divergence.
CASES: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "pairs": (10, 20_000, 10_000, {}),
    "products": (100, 4000, 4000, {"kernel": "gaussian"}),
    "line": (1, 1_000_000, 1_000_000, {"kernel": "laplace"}),
    "grid": (2, 1_000_000, 1_000_000, {"kernel": "gaussian"}),
    "tree": (2, 300_000, 300_000, {}),
    "slices": (10, 200_000, 200_000, {"name": "sliced"}),
}
BILLION, MANY = 10**9, [1, 64, 1024]


def spec_of(n: int, m: int, divergence: dict[str, Any], steps: int) -> FlowSpec:
    kind = DivergenceSpec(**divergence)
    return FlowSpec(num_particles=n, num_targets=m, num_steps=steps, frames=1, divergence=kind)


def plan(dim: int, n: int, m: int, divergence: dict[str, Any], ranks: list[int], steps: int) -> dict[str, Any]:
    """Return what a plan says."""
    return asdict(plan_flow(spec_of(n, m, divergence, steps), ranks, dim=dim))


def run(dim: int, n: int, m: int, divergence: dict[str, Any]) -> dict[str, float]:
    """Run a flow on the processes that this one is connected to, with points as the plan has them; return what this one took."""
    distributed.connect()
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2 * m, dim, generator=generator)[:m]  # the other half stays, as that for the test does
    particles = torch.randn(n, dim, generator=generator) / 3
    points = Prepared(generator, particles, target, None, None, None, None)
    ticks: list[float] = []
    spec = spec_of(n, m, divergence, STEPS)
    run_flow(spec, prepared=points, watch=lambda step, x: ticks.append(time.process_time()))
    return {"step": min(after - before for before, after in itertools.pairwise(ticks)), "memory": 2**20 * peak_mb()}


def apart(task: Callable[..., dict[str, Any]], *arguments: Any, ranks: int = 1) -> list[dict[str, Any]]:
    """Return what a task returns on each of so many new processes."""
    forks = multiprocessing.get_context("fork")
    results = forks.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(ranks)}

    def child(rank: int) -> None:
        os.environ.update(shared, RANK=str(rank))
        results.put(task(*arguments))

    processes = [forks.Process(target=child, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"{task.__name__}{arguments}: a process failed")
    return [results.get() for _ in processes]


def compare(name: str, ranks: list[int], smaller: int) -> list[dict[str, Any]]:
    """Return a row a number of processes: planned and measured."""
    dim, n, m, divergence = CASES[name]
    n, m = n // smaller, m // smaller
    (planned,) = apart(plan, dim, n, m, divergence, ranks, STEPS)
    rows = []
    for row in planned["rows"]:
        if row["step"] > LONGEST:
            continue
        made = apart(run, dim, n, m, divergence, ranks=row["ranks"])
        measured = {key: max(part[key] for part in made) for key in ("step", "memory")}
        rows.append(
            {"case": name, "d": dim, "n": n, "m": m, "ranks": row["ranks"], "divergence": divergence, "way": row["way"]}
            | {"largest_trial": planned["measured"][:2], "beyond": row["beyond"]}
            | {f"planned_{key}": row[key] for key in measured}
            | {f"measured_{key}": value for key, value in measured.items()}
            | {f"{key}_ratio": row[key] / value for key, value in measured.items()}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="cases, with commas; by default all")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--scale", choices=("full", "small"), default="full", help="small: to see that everything runs")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(options.output)
    path, names = options.output / "plan.json", list(CASES) if options.only is None else options.only.split(",")
    head = {"command": " ".join(["python", *sys.argv]), "load_before": os.getloadavg()[0], **provenance()}
    rows: list[dict[str, Any]] = []
    ahead: list[dict[str, Any]] = []
    if options.only is not None and path.exists():
        before = read_json(path)
        rows, ahead = ([row for row in before[key] if row["case"] not in names] for key in ("rows", "extrapolated"))
    table = Table(case=9, d=4, n=10, m=10, ranks=6, planned=9, measured=9, ratio=6, MB=7, of_MB=7)
    for name in names:
        for row in compare(name, options.ranks, 10 if options.scale == "small" else 1):
            rows.append(row | {"commit": head["commit"]})
            times = (f"{row[key]:.3g}" for key in ("planned_step", "measured_step", "step_ratio"))
            memory = (f"{row[key] / 2**20:.0f}" for key in ("planned_memory", "measured_memory"))
            table.row(name, row["d"], row["n"], row["m"], row["ranks"], *times, *memory)
        dim, _, _, divergence = CASES[name]
        (planned,) = apart(plan, dim, BILLION, BILLION, divergence, MANY, 500)
        head_of = {
            "case": name,
            "d": dim,
            "n": BILLION,
            "m": BILLION,
            "divergence": divergence,
            "commit": head["commit"],
        }
        ahead += [head_of | row for row in planned["rows"]]
    errors = sorted(abs(math.log(row["step_ratio"])) for row in rows)
    worst, usual = math.exp(errors[-1]), math.exp(errors[len(errors) // 2])
    print(f"a step: within a factor of {worst:.2f}; median {usual:.2f}")
    write_json(path, head | {"steps": STEPS, "rows": rows, "extrapolated": ahead})
    print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main()
