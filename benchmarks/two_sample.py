"""The level and the power of the ways to test two samples, and their time on large ones.

python benchmarks/two_sample.py [--points 400] [--draws 200] [--shifts 0 0.1 0.2 0.3] [--large 100000] [--output results]

Writes two-sample.json. Samples of n = m points are drawn from N(0, I) and N((shift, 0), I) in the plane, again and again. The
share of draws that are rejected at 0.05 is the level at shift 0, and the power elsewhere. The kernel is Gaussian of bandwidth 1.
Every way sees the same samples; sums within a tolerance, whose statistic is that of `permutation`, are left to the tests. Then
each way that holds no whole Gram matrix tests large samples once, with as many resamplings: the time is that of the process on
one thread.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import Table, provenance

from mmdflow import Gaussian
from mmdflow._files import make_folder, write_json
from mmdflow.metrics import mmd_test

#: The ways, and those of large samples.
WAYS: dict[str, dict[str, Any]] = {
    "permutation": {},
    "wild-bootstrap": {"method": "wild-bootstrap"},
    "random-features, L = 100": {"method": "random-features", "num_features": 100},
    "random-features, L = 10": {"method": "random-features", "num_features": 10},
    "block_size = 100": {"block_size": 100},
    "block_size = 20": {"block_size": 20},
    "linear-time": {"method": "linear-time"},
}
LARGE = {"permutation, tolerance = 1e-3": {"tolerance": 1e-3}, **{way: WAYS[way] for way in list(WAYS)[2:]}}
LEVEL = 0.05


def rejections(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return the share of rejections and the seconds of a test at every shift, by way."""
    rows: dict[str, dict[str, list[float]]] = {way: {"rejected": [], "seconds": []} for way in WAYS}
    for shift in options.shifts:
        counts, seconds = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0.0)
        for draw in range(options.draws):
            generator = torch.Generator().manual_seed(draw)
            x, y = (torch.randn(options.points, 2, generator=generator) for _ in range(2))
            y[:, 0] += shift
            for way, settings in WAYS.items():
                start = time.process_time()
                p_value = test(x, y, options.resamplings, settings, generator)
                seconds[way] += time.process_time() - start
                counts[way] += p_value <= LEVEL
        for way in WAYS:
            rows[way]["rejected"].append(counts[way] / options.draws)
            rows[way]["seconds"].append(seconds[way] / options.draws)
    return rows


def test(
    x: torch.Tensor, y: torch.Tensor, resamplings: int, settings: dict[str, Any], generator: torch.Generator
) -> float:
    return mmd_test(x, y, Gaussian(1.0), num_permutations=resamplings, generator=generator, **settings)[1]


def large(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the seconds of a test of large samples, and its p-value."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(options.large, 2, generator=generator) for _ in range(2))
    y[:, 0] += options.large_shift
    rows = {}
    for way, settings in LARGE.items():
        start = time.process_time()
        p_value = test(x, y, options.resamplings, settings, generator)
        rows[way] = {"seconds": time.process_time() - start, "p_value": p_value}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=400, help="n = m of the simulation")
    parser.add_argument("--draws", type=int, default=200, help="samples drawn at each shift")
    parser.add_argument("--resamplings", type=int, default=99)
    parser.add_argument("--shifts", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--large", type=int, default=100_000, help="n = m of the timed tests")
    parser.add_argument("--large_shift", type=float, default=0.01)
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(options.output)
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    run = {"command": " ".join(["python", *sys.argv]), "load_before": os.getloadavg()[0], **settings, "level": LEVEL}
    small, timed = rejections(options), large(options)
    table = Table(way=32, **{f"at {shift:g}": 9 for shift in options.shifts}, ms=9)
    for way, row in small.items():
        table.row(way, *row["rejected"], f"{1000 * sum(row['seconds']) / len(row['seconds']):.1f}")
    table = Table(way=32, seconds=9, p_value=9)
    for way, of in timed.items():
        table.row(way, f"{of['seconds']:.3g}", f"{of['p_value']:.2f}")
    path = options.output / "two-sample.json"
    write_json(path, run | provenance() | {"clock": "time.process_time", "ways": small, "large_tests": timed})
    print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main()
