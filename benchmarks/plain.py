"""The velocity of the MMD beside ten lines of plain torch, and what is lost away from the origin.

The peer is the analytic gradient in blocks of pairs, as one writes it who knows the formula: squared distances by a matrix
product, the slope in place, a second product. Two bare matrix products of the same sizes say what no such method goes below.
Times are those of the process.
"""

import functools
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import peers
import torch
from measure import Table, exact_gradient, interleaved, points, provenance, relative_error, spread

from mmdflow import MMD, Gaussian, Riesz

DIMS = {"gaussian": (2, 10, 100, 784), "riesz": (2, 10, 100)}
#: How far from the origin the clouds lie along every axis, in standard deviations, and in which dimensions that is looked at.
OFFSETS, AWAY = (0.0, 100.0, 1000.0), (2, 100)
#: Points of a cloud there.
FEW = 1000
CHECKED = 200
MODULES = {"KeOps": "pykeops", "GeomLoss": "geomloss"}


def report(options: Namespace) -> dict[str, Any]:
    n = 2000 if options.scale == "full" else 300
    print(f"MMD velocity beside plain torch, n = m = {n}, float32, {options.threads} thread(s)", flush=True)
    table = Table(method=16, kernel=8, d=4, ms=10, ratio=8, error=8)
    rows = []
    for kernel, dims in DIMS.items():
        for dim in dims:
            row = measure(kernel, n, dim, options)
            rows.append(row)
            for name, of in row["methods"].items():
                error = f"{of['error']:.1e}" if "error" in of else ""
                table.row(name, kernel, dim, f"{of['ms']:.1f}", f"{of['ratio']:.2f}", error)
    return {**provenance(), "n": n, "rows": rows, "away": {"n": FEW, "rows": away()}}


def measure(kernel: str, n: int, dim: int, options: Namespace) -> dict[str, Any]:
    """Return the row of one kernel and dimension: times, ratios to mmdflow's, errors."""
    x, y = points(n, dim)
    divergence = MMD(y, Gaussian(dim**0.5) if kernel == "gaussian" else Riesz())
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "mmdflow": lambda: -divergence.velocity(x),
        "blocked torch": functools.partial(peers.blocked, kernel, x, y),
        "two products": functools.partial(products, x, y),
    }
    methods = interleaved(calls, options.repeats, options.seconds, time.process_time)
    rows = spread(n, CHECKED)
    exact = exact_gradient(kernel, x, y, rows)
    for name, of in methods.items():
        of["ratio"] = of["ms"] / methods["mmdflow"]["ms"]
        if name != "two products":
            of["error"] = relative_error(calls[name]()[rows], exact)
    return {"kernel": kernel, "d": dim, "methods": methods}


def products(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The two matrix products over all pairs, in the peer's blocks, and nothing else."""
    z, total = torch.cat([x, y]), torch.empty_like(x)
    for rows, out in zip(x.split(peers.ROWS), total.split(peers.ROWS), strict=True):
        torch.mm(rows @ z.T, z, out=out)
    return total


def away() -> list[dict[str, Any]]:
    """Return the errors of all methods on clouds that lie away from the origin, against float64 on the same points."""
    there = peers.installed(MODULES)
    methods = {"blocked torch": peers.blocked, "torch.cdist": peers.cdist}
    methods |= {
        name: function for name, function in (("KeOps", peers.keops), ("GeomLoss", peers.geomloss)) if name in there
    }
    table = Table(method=16, kernel=8, d=4, offset=8, error=8)
    rows = []
    for kernel, dim, offset in ((k, d, o) for k in DIMS for d in AWAY for o in OFFSETS):
        x, y = (cloud + offset for cloud in points(FEW, dim))
        ours = MMD(y, Gaussian(dim**0.5) if kernel == "gaussian" else Riesz())
        exact = exact_gradient(kernel, x, y, torch.arange(FEW))
        errors = {"mmdflow": relative_error(-ours.velocity(x), exact)}
        errors |= {name: relative_error(method(kernel, x, y), exact) for name, method in methods.items()}
        for name, error in errors.items():
            table.row(name, kernel, dim, f"{offset:g}", f"{error:.1e}")
        rows.append({"kernel": kernel, "d": dim, "offset": offset, "errors": errors})
    return rows
