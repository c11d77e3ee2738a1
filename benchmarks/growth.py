"""Time and peak memory of a whole step of a flow, from ten thousand to three million particles in the plane.

python benchmarks/growth.py [--points 10000 ...] [--output results]

Writes bench-growth.json. Every size runs in a process of its own on one thread: as many particles as target samples, Gaussian
kernel, float32, sums within a tolerance, F and a snapshot in a file at every step. The time of a step is that of the process.
"""

import argparse
import math
import os
import sys
from pathlib import Path

import fresh
import torch
from measure import Table, provenance

from mmdflow._files import make_folder, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000]
    parser.add_argument("--points", type=int, nargs="+", default=sizes, help="n = m")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(options.output)
    run = {"command": " ".join(["python", *sys.argv]), "load_before": os.getloadavg()[0], "scale": "full"}
    table, rows = Table(n=9, seconds=10, n_log_n=10, MB=8, error=9), []
    for n in options.points:
        row = {"n": n, **fresh.run("growth", "quick", n)}
        rows.append(row)
        share = row["seconds"] / rows[0]["seconds"] / (n * math.log(n) / (rows[0]["n"] * math.log(rows[0]["n"])))
        table.row(n, f"{row['seconds']:.3f}", f"{share:.2f}", f"{row['process_mb']:.0f}", f"{row['error']:.0e}")
    settings = {
        "bandwidth": fresh.WIDTH,
        "tolerance": fresh.TOLERANCE,
        "steps": fresh.STEPS,
        "clock": "time.process_time",
    }
    path = options.output / "bench-growth.json"
    write_json(path, run | provenance() | settings | {"rows": rows})
    print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main()
