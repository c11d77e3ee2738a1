"""The error of slicing against the number of slices, for every kind of directions that SlicedMMD knows."""

import math
import statistics
import time
from argparse import Namespace
from typing import Any

import torch
from measure import Table, exact_gradient, points, provenance, relative_error, spread

from mmdflow import SlicedMMD
from mmdflow.divergences.directions import DIRECTIONS
from mmdflow.errors import InputError

DIMS = (2, 3, 5, 10, 50, 100)
COUNTS = (16, 64, 256, 1024)


def report(options: Namespace) -> dict[str, Any]:
    n, seeds = (256, 20) if options.scale == "full" else (64, 3)
    print(f"Error of the sliced gradient, n = m = {n}, float64, root mean square over {seeds} draws", flush=True)
    print("alike: how many random directions err as little; gain: how many times as many", flush=True)
    table = Table(kind=12, d=4, P=5, error=9, alike=10, gain=8, draw_ms=9)
    rows: list[dict[str, Any]] = []
    for dim in DIMS:
        measured = {kind: errors for kind in DIRECTIONS if (errors := measure(kind, dim, n, seeds))}
        # The error of random directions is (c / P)^(1/2)
        c = statistics.geometric_mean(count * of["error"] ** 2 for count, of in measured["random"].items())
        for kind, errors in measured.items():
            for count, of in errors.items():
                alike = c / of["error"] ** 2
                row = {
                    "kind": kind,
                    "d": dim,
                    "P": count,
                    **of,
                    "random_directions_alike": alike,
                    "gain": alike / count,
                }
                rows.append(row)
                cells = f"{of['error']:.1e}", f"{alike:.0f}", f"{alike / count:.2f}", f"{of['draw_ms']:.2f}"
                table.row(kind, dim, count, *cells)
    return {**provenance(), "n": n, "draws": seeds, "rows": rows}


def measure(kind: str, dim: int, n: int, seeds: int) -> dict[int, dict[str, float]]:
    """Return the error and the time of a draw for each P; nothing where this kind has no directions in d dimensions."""
    x, y = (p.double() for p in points(n, dim))
    exact = exact_gradient("riesz", x, y, spread(n, n))
    errors: dict[int, dict[str, float]] = {}
    for count in COUNTS:
        squares, draws = [], []
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            start = time.perf_counter()
            try:
                divergence = SlicedMMD(y, count, directions=kind, generator=generator, redraw=False)
            except InputError:  # such as equispaced ones out of the plane, or patches of vectors
                return errors
            draws.append(1000 * (time.perf_counter() - start))
            squares.append(relative_error(-divergence.velocity(x), exact) ** 2)
        errors[count] = {"error": math.sqrt(statistics.fmean(squares)), "draw_ms": statistics.median(draws)}
    return errors
