"""Sums in O(n log n) on the line and on grids, beside exact sums over pairs: times of the process, in turns, each with its error.

python benchmarks/fast_sums.py [--scale full|small] [--repeats 5] [--seconds 20] [--output results]

Writes bench-fast.json. The work is the velocity of the MMD of n particles and n target samples: a sum over n x 2n pairs. Sums
over pairs are timed on some of the n rows, 2e8 pairs (plain torch 1e7), and their times scaled to n rows; the report says so.
Plain torch is left out where that would be too few rows for its blocks.
"""

import argparse
import functools
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from measure import Table, interleaved, points, provenance, relative_error
from torch import Tensor

from mmdflow import Gaussian, Kernel, Laplace, Matern, Riesz, ops
from mmdflow._files import make_folder, write_json
from mmdflow.ops import reference, sorted_line

TOLERANCE = 1e-4
#: Pairs over which sums over pairs are timed: compiled, and in plain torch.
PAIRS, PLAIN_PAIRS = 2 * 10**8, 10**7
#: Rows that the errors are taken over, or as many as were timed.
CHECKED = 50
#: The pairs of a block of plain torch, which stays in the cache.
ROWS, COLUMNS = 64, 1024


def cases(scale: str) -> Iterator[tuple[str, Kernel | float, int, int, torch.dtype]]:
    """Return the name, the kernel (or a bandwidth in sides of the box), d, n and the precision of every row."""
    full = scale == "full"
    for dtype in (torch.float32, torch.float64):
        for name, kernel in (("laplace", Laplace(0.5)), ("matern 3/2", Matern(1.5, 0.5)), ("riesz", Riesz())):
            for n in (10_000, 1_000_000) if full else (1000,):
                yield name, kernel, 1, n, dtype
    for dim, share in ((2, 0.1), (2, 0.02), (3, 0.1)):
        for n in (100_000, 1_000_000) if full else (3000,):
            yield f"gaussian, {share:g} of the box", share, dim, n, torch.float32


def report(options: Namespace) -> dict[str, Any]:
    table = Table(kernel=26, d=3, n=9, dtype=9, method=14, ms=13, ratio=9, error=9)
    rows = []
    for name, kernel, dim, n, dtype in cases(options.scale):
        row = measure(name, kernel, dim, n, dtype, options)
        rows.append(row)
        for method, of in row["methods"].items():
            cells = name, dim, n, row["dtype"], method, f"{of['ms']:.4g}", f"{of['ratio']:.1f}", f"{of['error']:.1e}"
            table.row(*cells)
    return {**provenance(), "clock": "time.process_time", "tolerance": TOLERANCE, "rows": rows}


def measure(
    name: str, kernel: Kernel | float, dim: int, n: int, dtype: torch.dtype, options: Namespace
) -> dict[str, Any]:
    """Return a row: times in milliseconds, ratios to the fast sum's time, errors against float64."""
    x, y = (t.to(dtype) for t in points(n, dim))
    p = torch.cat([x, y])
    weights = torch.cat([x.new_full((n,), 1 / n), x.new_full((n,), -1 / n)])
    if not isinstance(kernel, Kernel):
        kernel = Gaussian(kernel * float((p.amax(0) - p.amin(0)).max()))
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    timed = {"mmdflow, pairs": min(n, PAIRS // (2 * n))}
    if 2 * n * CHECKED <= PLAIN_PAIRS:
        timed["blocked torch"] = min(n, PLAIN_PAIRS // (2 * n))
    parts = {method: x[shuffled[:count]] for method, count in timed.items()}
    checked = shuffled[:CHECKED]
    record: list[float] = []
    calls: dict[str, Callable[[], Tensor]] = {
        "mmdflow, fast": functools.partial(quick, kernel, x, p, weights, record),
        "mmdflow, pairs": functools.partial(pairs, kernel, parts["mmdflow, pairs"], p, weights),
    }
    if "blocked torch" in timed:
        calls["blocked torch"] = functools.partial(blocked, kernel, parts["blocked torch"], p, weights)
    methods = interleaved(calls, options.repeats, options.seconds, time.process_time)
    exact = reference.kernel_sum_grad(kernel, x[checked].double(), p.double(), weights.double())
    for method, call in calls.items():
        result = call()
        if method in timed:
            for key in ("ms", "fastest_ms", "first_call_ms"):
                methods[method][key] *= n / timed[method]
            methods[method]["timed_rows"] = timed[method]
        else:
            result = result[checked]
        count = min(CHECKED, len(result))
        methods[method] |= {"error": relative_error(result[:count], exact[:count]), "error_rows": count}
    for of in methods.values():
        of["ratio"] = of["ms"] / methods["mmdflow, fast"]["ms"]
    row = {"kernel": name, "d": dim, "n": n, "m": n, "dtype": str(dtype).removeprefix("torch."), "methods": methods}
    return row | ({"measured_by_itself": max(record)} if record else {})


def quick(kernel: Kernel, x: Tensor, p: Tensor, weights: Tensor, record: list[float]) -> Tensor:
    """The sum in O(n log n): exact on the line, within the tolerance for Gaussians; its own estimate of the error is noted."""
    if not isinstance(kernel, Gaussian):
        return ops.kernel_sum_grad(kernel, x, p, weights)
    with ops.backend("fast", tolerance=TOLERANCE) as did:
        result = ops.kernel_sum_grad(kernel, x, p, weights)
    assert did is not None
    if did.grids:
        record.append(did.error)
    return result


def pairs(kernel: Kernel, x: Tensor, p: Tensor, weights: Tensor) -> Tensor:
    """The compiled sum over all pairs of the same build."""
    with by_pairs(), ops.backend("compiled"):
        return ops.kernel_sum_grad(kernel, x, p, weights)


@contextmanager
def by_pairs() -> Iterator[None]:
    """Never sort."""
    few, sorted_line.FEW = sorted_line.FEW, sys.maxsize
    try:
        yield
    finally:
        sorted_line.FEW = few


def blocked(kernel: Kernel, x: Tensor, p: Tensor, weights: Tensor) -> Tensor:
    """Plain torch as one writes it in ten lines: the analytic gradient, a block of pairs at a time."""
    total = torch.zeros_like(x)
    for rows, out in zip(x.split(ROWS), total.split(ROWS), strict=True):
        for part, w in zip(p.split(COLUMNS), weights.split(COLUMNS), strict=True):
            differences = [a[:, None] - b[None] for a, b in zip(rows.T, part.T, strict=True)]
            r2 = sum(difference.square() for difference in differences)
            if isinstance(kernel, Gaussian):
                slope = (r2 * (-0.5 / kernel.bandwidth**2)).exp_() * (-1 / kernel.bandwidth**2)
            elif isinstance(kernel, Matern):
                slope = (r2.sqrt() * (-(3**0.5) / kernel.bandwidth)).exp_() * (-3 / kernel.bandwidth**2)
            else:
                inverse = r2.rsqrt().masked_fill_(r2 == 0, 0)
                decay = 1 if isinstance(kernel, Riesz) else (r2.sqrt() / -kernel.bandwidth).exp_() / kernel.bandwidth
                slope = -inverse * decay
            for axis, difference in enumerate(differences):
                out[:, axis] += (slope * difference) @ w
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("full", "small"), default="full", help="small: to see that everything runs")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each, after one that is not timed")
    parser.add_argument("--seconds", type=int, default=20, help="fewer repeats, but 3, where they would last longer")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(options.output)
    run = {"command": " ".join(["python", *sys.argv]), "scale": options.scale, "load_before": os.getloadavg()[0]}
    path = options.output / "bench-fast.json"
    write_json(path, run | report(options))
    print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main()
