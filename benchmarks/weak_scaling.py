"""Weak scaling of an exact flow over pairs: as many pairs for every process, on 1, 2, ... processes.

python benchmarks/weak_scaling.py [--ranks 1 2] [--particles 20000] [--repeats 3] [--output results]

Writes weak-scaling.json. Needs an idle core for every process. n = m particles and targets of one process become n k^(1/2) on k,
so that each sums n (n + m) pairs a step: the throughput in pairs a second should be k times as large. Numbers of processes take
turns. Beside the time by the clock stands that of the process, which a busy machine changes less: what the exchange costs.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import Table, provenance
from plan import apart

from mmdflow import MMD, Gaussian, distributed, flow
from mmdflow._files import make_folder, write_json
from mmdflow.flows import Record

DIM, STEPS = 10, 4


def steps(n: int) -> dict[str, Any]:
    """Return the seconds of the steps after the first, by the clock and of this process, of a sharded flow of n particles."""
    ranks = distributed.connect()
    generator = torch.Generator().manual_seed(0)
    target, particles = torch.randn(n, DIM, generator=generator), torch.randn(n, DIM, generator=generator) / 3
    part, ticks = ranks.part(n), list[tuple[float, float]]()

    def tick(step: int, x: Any) -> None:
        ranks.wait()
        ticks.append((time.perf_counter(), time.process_time()))

    flow(
        MMD(target[part], Gaussian(DIM**0.5)),
        particles[part],
        step_size=0.1,
        num_steps=1 + STEPS,
        save_every=Record(evaluate=False),
        callback=tick,
        sharded=True,
    )
    clock, process = ((ticks[-1][i] - ticks[0][i]) / STEPS for i in (0, 1))
    return {"clock": clock, "process": process}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--particles", type=int, default=20_000, help="of one process, and as many targets")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(options.output)
    head = {"command": " ".join(["python", *sys.argv]), "load_before": os.getloadavg()[0], **provenance()}
    sizes = {ranks: round(options.particles * ranks**0.5) for ranks in options.ranks}
    taken: dict[int, list[dict[str, Any]]] = {ranks: [] for ranks in sizes}
    for _ in range(options.repeats):
        for ranks, n in sizes.items():
            made = apart(steps, n, ranks=ranks)
            taken[ranks].append({key: max(part[key] for part in made) for key in ("clock", "process")})
    table, rows = Table(ranks=6, n=8, seconds=9, of_process=11, throughput=11, by_process=11), []
    for ranks, n in sizes.items():
        row: dict[str, Any] = {"ranks": ranks, "n": n, "m": n, "d": DIM, "pairs": 2 * n**2}
        for key in ("clock", "process"):  # of as many pairs for every process
            row[key] = statistics.median(one[key] for one in taken[ranks])
            of_first = rows[0] if rows else row
            row[f"ratio_{key}"] = row["pairs"] / row[key] / (of_first["pairs"] / of_first[key])
        rows.append(row)
        table.row(ranks, n, *(f"{row[key]:.3g}" for key in ("clock", "process", "ratio_clock", "ratio_process")))
    path = options.output / "weak-scaling.json"
    write_json(path, head | {"steps": STEPS, "repeats": options.repeats, "rows": rows})
    print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main()
