"""What the suites share: points, times taken in turns, errors, the machine, tables."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdflow._files import commit, write_json

COMMIT = commit()  # of what is imported, before anything is measured
PACKAGES = ("torch", "numpy", "numba", "pykeops", "geomloss", "POT")


def points(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """Draw n particles from N(0, I) and n target samples from N((1/2, ..., 1/2), I), the same every time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, dim, generator=generator)
    return x, torch.randn(n, dim, generator=generator) + 0.5


def seconds(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    def finish() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return clock()

    start = finish()
    call()
    return finish() - start


def interleaved(
    calls: dict[str, Callable[[], Any]], repeats: int, limit: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[str, float]]:
    """Time the calls in turns: A, B, A, B, ...; slow ones fewer than `repeats` times where that would pass the limit.

    Each is timed 3 times at least. First calls warm up; their time, which includes compilation, is reported apart.
    """
    firsts = {name: seconds(call, clock) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats):
        for name, call in calls.items():
            if i < 3 or sum(times[name]) + times[name][-1] < limit:
                times[name].append(seconds(call, clock))
    return {
        name: {
            "ms": 1000 * statistics.median(taken),
            "fastest_ms": 1000 * min(taken),
            "repeats": len(taken),
            "first_call_ms": 1000 * firsts[name],
        }
        for name, taken in times.items()
    }


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Return |value - exact| / |exact| over all rows together."""
    return float((value.double() - exact).norm() / exact.norm())


def spread(n: int, count: int) -> Tensor:
    """Return `count` row numbers out of n, evenly spread."""
    return torch.linspace(0, n - 1, min(n, count)).round().long()


def exact_gradient(kernel: str, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Return n dF/dx_i of 1/2 MMD^2 at some rows in float64, by exact differences: the yardstick of all errors."""
    x, y = x.double(), y.double()
    total = torch.zeros(len(rows), x.shape[1], dtype=torch.float64)
    for cloud, sign in ((x, 1), (y, -1)):
        for block in cloud.split(max(1, 2**23 // len(rows))):
            distance = torch.cdist(x[rows], block, compute_mode="donot_use_mm_for_euclid_dist")
            if kernel == "gaussian":  # of bandwidth d^(1/2); k' / distance
                factor = -(-distance.square() / (2 * x.shape[1])).exp() / x.shape[1]
            else:
                factor = torch.where(distance == 0, 0.0, -1 / distance)
            total += sign / len(cloud) * (factor.sum(1, keepdim=True) * x[rows] - factor @ block)
    return total


def provenance() -> dict[str, Any]:
    """Return when, with which commit and where something was measured."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    machine = {
        "cpu": _cpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return {
        "commit": COMMIT,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine | {"threads": torch.get_num_threads(), "versions": versions},
    }


def _cpu() -> str:
    """Return the processor's name, with the family and model number where Linux tells (a virtual machine hides it)."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    numbers = ", ".join(f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields)
    return f"{fields.get('model name', platform.processor())} ({numbers})"


class Table:
    """A printed table; every row appears as soon as it is measured.

    Args:
        columns: names and widths; the first one is aligned to the left.
    """

    def __init__(self, **columns: int) -> None:
        self.widths = list(columns.values())
        self.row(*columns)

    def row(self, *cells: Any) -> None:
        """Print a row."""
        first, *rest = zip(cells, self.widths, strict=True)
        print("  ".join([f"{first[0]!s:<{first[1]}}", *(f"{cell!s:>{width}}" for cell, width in rest)]), flush=True)


def models_parser(description: str | None, names: list[str], output: str) -> argparse.ArgumentParser:
    """Return the options of a benchmark of models: their names, and the file that keeps the figures by model."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=names)
    parser.add_argument("--output", type=Path, default=Path(output))
    return parser


def read_models(file: Path) -> dict[str, Any]:
    """Return the figures by model of a report that is there already."""
    from mmdflow.evaluation.figures import read_report  # late: others measure what a process holds

    return read_report(file)["models"] if file.exists() else {}


def write_models(file: Path, script: str, models: dict[str, Any]) -> None:
    """Write a report of models: the script that measured them, on what, and the figures by model."""
    write_json(file, {"command": f"python benchmarks/{Path(script).name}", **provenance(), "models": models})
