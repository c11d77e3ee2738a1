"""The velocity of the MMD, a sum over all pairs."""

import functools
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import peers
import torch
from measure import Table, exact_gradient, interleaved, points, provenance, relative_error, seconds, spread

from mmdflow import MMD, Gaussian, Riesz

DIMS = {"gaussian": (2, 10, 100, 784), "riesz": (2, 10, 100)}
PAIRWISE = {"KeOps": peers.keops, "GeomLoss": peers.geomloss, "torch.cdist": peers.cdist, "broadcast": peers.broadcast}
MODULES = {"KeOps": "pykeops", "GeomLoss": "geomloss", "torch.cdist": "torch", "broadcast": "torch"}
#: Rows of the gradient that the errors are taken over.
CHECKED = 500


def report(options: Namespace) -> dict[str, Any]:
    n = 5000 if options.scale == "full" else 500
    there = peers.installed(MODULES)
    print(f"MMD velocity, n = m = {n}, float32, {options.threads} thread(s)", flush=True)
    table = Table(method=12, kernel=8, d=4, ms=10, ratio=8, error=8, of_sgemm=8)
    rows = []
    for kernel, dims in DIMS.items():
        for dim in dims:
            row = measure(kernel, n, dim, there, options)
            rows.append(row)
            for name, of in row["methods"].items():
                share = f"{row['of_sgemm_peak']:.2f}" if name == "mmdflow" and "of_sgemm_peak" in row else ""
                table.row(name, kernel, dim, f"{of['ms']:.1f}", f"{of['ratio']:.2f}", f"{of['error']:.1e}", share)
    return {**provenance(), "n": n, "rows": rows}


def measure(kernel: str, n: int, dim: int, there: list[str], options: Namespace) -> dict[str, Any]:
    """Return the row of one kernel and dimension: times, ratios to mmdflow's, errors."""
    x, y = points(n, dim)
    divergence = MMD(y, Gaussian(dim**0.5) if kernel == "gaussian" else Riesz())
    calls: dict[str, Callable[[], torch.Tensor]] = {"mmdflow": lambda: -divergence.velocity(x)}
    for name in there:
        if name != "broadcast" or dim <= 10:  # it holds [n, m, d]
            calls[name] = functools.partial(PAIRWISE[name], kernel, x, y)
    rows = spread(n, CHECKED)
    exact = exact_gradient(kernel, x, y, rows)
    peak = sgemm_gflops() if dim >= 100 else 0.0
    methods = interleaved(calls, options.repeats, options.seconds)
    for name, call in calls.items():
        methods[name]["ratio"] = methods[name]["ms"] / methods["mmdflow"]["ms"]
        methods[name]["error"] = relative_error(call()[rows], exact)
    row: dict[str, Any] = {"kernel": kernel, "d": dim, "methods": methods}
    if dim >= 100:
        peak = max(peak, sgemm_gflops())
        flops = 4 * n * (2 * n) * dim  # two matrix products over all pairs
        row |= {"sgemm_gflops": peak, "of_sgemm_peak": flops / (1e6 * methods["mmdflow"]["ms"]) / peak}
    return row


def sgemm_gflops(size: int = 2048) -> float:
    """Return the best rate of ten products of square matrices."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(10)) / 1e9
