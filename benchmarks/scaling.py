"""Time against particles, dimensions, slices and threads, and the memory of a step with a million particles."""

import functools
import os
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import fresh
import torch
from measure import Table, interleaved, points, provenance

from mmdflow import MMD, Gaussian, SlicedMMD
from mmdflow.divergences import Divergence

#: Sizes of the sums (n, d) and of the slices (n, d, P); one of them changes along a series.
SERIES: dict[str, tuple[tuple[int, ...], ...]] = {
    "MMD, against n, d = 2": tuple((n, 2) for n in (1000, 3000, 10_000, 30_000)),
    "MMD, against n, d = 100": tuple((n, 100) for n in (1000, 3000, 10_000)),
    "MMD, against d": tuple((3000, d) for d in (1, 2, 3, 5, 10, 16, 17, 32, 100, 300, 784)),
    "SlicedMMD, against n": tuple((n, 10, 100) for n in (1000, 10_000, 100_000, 300_000)),
    "SlicedMMD, against d": tuple((10_000, d, 100) for d in (2, 10, 30, 100, 300, 784)),
    "SlicedMMD, against P": tuple((10_000, 10, p) for p in (10, 100, 1000)),
}
THREADED = {"MMD, d = 2": (10_000, 2), "MMD, d = 100": (10_000, 100), "SlicedMMD": (100_000, 10, 100)}


def report(options: Namespace) -> dict[str, Any]:
    times = functools.partial(measure, smaller=1 if options.scale == "full" else 10, options=options)
    print(f"Times of a velocity, {options.threads} thread(s): MMD with the Gaussian kernel, SlicedMMD", flush=True)
    table = Table(series=26, n=8, d=4, P=5, threads=7, ms=10)
    rows = list(times(SERIES, table))
    try:
        for threads in range(1, (os.cpu_count() or 1) + 1):
            torch.set_num_threads(threads)
            rows += times({f"threads: {name}": (size,) for name, size in THREADED.items()}, table)
    finally:
        torch.set_num_threads(options.threads)
    memory = {}
    n = 1_000_000 if options.scale == "full" else 100_000
    for method in ("mmdflow", "three_sorts"):
        fresh.run("memory", method, n)  # what is compiled is now in numba's cache
        memory[method] = fresh.run("memory", method, n)
        print(f"memory of a step of {n} particles, d = 3, P = 10, {method}: {memory[method]}", flush=True)
    return {**provenance(), "rows": rows, "memory": {"n": n, "d": 3, "P": 10, "methods": memory}}


def measure(
    series: dict[str, tuple[tuple[int, ...], ...]], table: Table, smaller: int, options: Namespace
) -> Iterable[dict[str, Any]]:
    """Time every size of every series."""
    for name, sizes in series.items():
        for n, dim, *count in sizes:
            n //= smaller
            x, y = points(n, dim)
            divergence: Divergence = SlicedMMD(y, *count) if count else MMD(y, Gaussian(dim**0.5))
            call = functools.partial(divergence.velocity, x)
            (time,) = interleaved({name: call}, options.repeats, options.seconds).values()
            row = {
                "series": name,
                "n": n,
                "d": dim,
                "P": count[0] if count else None,
                "threads": torch.get_num_threads(),
            }
            table.row(*(row[key] or "" for key in row), f"{time['ms']:.2f}")
            yield row | time
