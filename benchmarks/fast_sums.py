"""Sums in O(n log n) on the line, on grids and over trees, beside exact sums over pairs: times of the process, in turns.

python benchmarks/fast_sums.py [--trees] [--scale full|small] [--repeats 5] [--seconds 20] [--output results]
python benchmarks/fast_sums.py --solvers [--points 10000 100000] [--held 10000] [--output results]

The second form writes bench-solvers.json: the first and a warm velocity of KALE, FDivergence, DrMMD and SobolevDescent on
low-rank factors, with exact sums and with quick ones, beside the same divergence with its matrix held. Each is timed once.

The first form writes bench-fast.json, or with --trees bench-trees.json. The work is the velocity of the MMD of n particles and n
target samples: a sum over n x 2n pairs. Sums over pairs are timed on some of the n rows, 2e8 pairs (plain torch 1e7), and their
times scaled to n rows; the report says so. Plain torch is left out where that would be too few rows for its blocks.
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

from mmdflow import (
    KALE,
    Divergence,
    DrMMD,
    FDivergence,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Matern,
    RationalQuadratic,
    Riesz,
    SobolevDescent,
    ops,
)
from mmdflow._files import make_folder, write_json
from mmdflow.divergences import gram, sobolev
from mmdflow.ops import reference, sorted_line

TOLERANCE, TOLERANCE_IN_SPACE = 1e-4, 1e-3
#: Pairs over which sums over pairs are timed: compiled, and in plain torch.
PAIRS, PLAIN_PAIRS = 2 * 10**8, 10**7
#: Rows that the errors are taken over, or as many as were timed.
CHECKED = 50
#: The pairs of a block of plain torch, which stays in the cache.
ROWS, COLUMNS = 64, 1024


def cases(scale: str, trees: bool) -> Iterator[tuple[str, Kernel | float, int, int, torch.dtype]]:
    """Return the name, the kernel (or a bandwidth in sides of the box), d, n and the precision of every row."""
    full = scale == "full"
    if trees:
        smooth = ("multiquadric", InverseMultiquadric(0.5)), ("rational quadratic", RationalQuadratic(1.0, 0.5))
        kinked = ("laplace", Laplace(0.5)), ("matern 3/2", Matern(1.5, 0.5)), ("riesz", Riesz())
        for name, kernel in (*kinked, *smooth):
            for dim in (2, 3):
                yield name, kernel, dim, 300_000 if full else 3000, torch.float32
        return
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
    for name, kernel, dim, n, dtype in cases(options.scale, options.trees):
        row = measure(name, kernel, dim, n, dtype, options)
        rows.append(row)
        for method, of in row["methods"].items():
            cells = name, dim, n, row["dtype"], method, f"{of['ms']:.4g}", f"{of['ratio']:.1f}", f"{of['error']:.1e}"
            table.row(*cells)
    return {**provenance(), "clock": "time.process_time", "rows": rows}


def measure(
    name: str, kernel: Kernel | float, dim: int, n: int, dtype: torch.dtype, options: Namespace
) -> dict[str, Any]:
    """Return a row: times in milliseconds, ratios to the fast sum's time, errors against float64."""
    x, y = (t.to(dtype) for t in points(n, dim))
    p = torch.cat([x, y])
    weights = torch.cat([x.new_full((n,), 1 / n), x.new_full((n,), -1 / n)])
    tolerance = TOLERANCE if dim < 3 or not options.trees else TOLERANCE_IN_SPACE
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
        "mmdflow, fast": functools.partial(quick, kernel, x, p, weights, tolerance, record),
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
    row["tolerance"] = tolerance
    return row | ({"measured_by_itself": max(record)} if record else {})


def quick(kernel: Kernel, x: Tensor, p: Tensor, weights: Tensor, tolerance: float, record: list[float]) -> Tensor:
    """The sum in O(n log n), exact on the line, else within the tolerance; its own estimate of the error is noted."""
    with ops.backend("fast", tolerance=tolerance) as did:
        result = ops.kernel_sum_grad(kernel, x, p, weights)
    assert did is not None
    if did.quick:
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


#: Bandwidth and lambda of the solvers' rows, the tolerance of their quick sums, and how far particles move before the warm step.
WIDTH, RIDGE, SUMS, MOVE = 0.7, 1e-2, 1e-9, 0.05
SOLVERS: dict[str, Callable[[Tensor], Divergence]] = {
    "kale": lambda y: KALE(y, Gaussian(WIDTH), RIDGE),
    "f-divergence chi2": lambda y: FDivergence(y, Gaussian(WIDTH), RIDGE, "chi2"),
    "drmmd": lambda y: DrMMD(y, Gaussian(WIDTH), RIDGE, num_landmarks=len(y)),
    "sobolev": lambda y: SobolevDescent(y, Gaussian(WIDTH), RIDGE),
}


def solvers(options: Namespace) -> dict[str, Any]:
    """Return rows of solvers: seconds of the set-up, the first and a warm step, the gap, errors against the held matrix."""
    table = Table(divergence=18, n=7, method=12, setup=8, first=8, warm=8, gap=9, error=9)
    rows = []
    for n in options.points:
        x, y = (t.double() for t in points(n, 2))
        for name, make in SOLVERS.items():
            methods: dict[str, dict[str, Any]] = {}
            for method in ("held", "exact sums", "quick sums") if n <= options.held else ("quick sums",):
                with held(method == "held"), ops.within(SUMS if method == "quick sums" else None):
                    methods[method], velocity = steps(make, x, y)
                if method == "held":
                    truth = velocity
                of = methods[method]
                of["error"] = relative_error(velocity, truth) if n <= options.held else None
                told = (f"{of[key]:.3g}" for key in ("setup_s", "first_s", "warm_s"))
                table.row(
                    name, n, method, *told, *(f"{of[k]:.0e}" if of[k] is not None else "" for k in ("gap", "error"))
                )
            rows.append({"divergence": name, "d": 2, "n": n, "m": n, "dtype": "float64", "methods": methods})
    return {**provenance(), "clock": "time.process_time", "sum_tolerance": SUMS, "rows": rows}


def steps(make: Callable[[Tensor], Divergence], x: Tensor, y: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Return the times of a solver and the velocity of its warm step."""
    start = time.process_time()
    divergence = make(y)
    made = time.process_time()
    velocity = divergence.velocity(x)
    first = time.process_time()
    velocity = divergence.velocity(x + MOVE * RIDGE * velocity)
    times = {"setup_s": made - start, "first_s": first - made, "warm_s": time.process_time() - first}
    gap = divergence.solve(x).gap if isinstance(divergence, FDivergence) else None
    return times | {"gap": gap}, velocity


@contextmanager
def held(always: bool) -> Iterator[None]:
    """Hold matrices of any size, and factorise them, if `always`."""
    before = gram.DENSE_POINTS, sobolev.DENSE_UNKNOWNS
    if always:
        gram.DENSE_POINTS = sobolev.DENSE_UNKNOWNS = sys.maxsize
    try:
        yield
    finally:
        gram.DENSE_POINTS, sobolev.DENSE_UNKNOWNS = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("full", "small"), default="full", help="small: to see that everything runs")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each, after one that is not timed")
    parser.add_argument("--seconds", type=int, default=20, help="fewer repeats, but 3, where they would last longer")
    parser.add_argument("--trees", action="store_true", help="measure kernels that are summed over trees")
    parser.add_argument("--solvers", action="store_true", help="measure the solvers instead")
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000], help="n = m of the solvers")
    parser.add_argument("--held", type=int, default=10_000, help="n up to which their matrices are held for comparison")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(options.output)
    run = {"command": " ".join(["python", *sys.argv]), "scale": options.scale, "load_before": os.getloadavg()[0]}
    suite = "solvers" if options.solvers else "trees" if options.trees else "fast"
    path = options.output / f"bench-{suite}.json"
    write_json(path, run | (solvers if options.solvers else report)(options))
    print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main()
