"""The velocity of the sliced MMD with the Riesz kernel, r = 1."""

import statistics
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import peers
import torch
from measure import Table, exact_gradient, interleaved, points, provenance, relative_error, spread

from mmdflow import SlicedMMD
from mmdflow.divergences.directions import riesz_scale
from mmdflow.errors import InputError

#: (n = m, d, P)
SIZES = ((10_000, 2, 100), (100_000, 10, 100), (1_000_000, 3, 10), (1_000, 100, 1000), (10_000, 784, 1000))
#: Options of SlicedMMD; the first is the base of the ratios.
VARIANTS: dict[str, dict[str, Any]] = {
    "mmdflow": {},
    "mmdflow, random directions": {"directions": "random"},
    "mmdflow, kept directions": {"redraw": False},
    "mmdflow, binned": {"directions": "random", "ranks": "binned"},
    "mmdflow, binned, bfloat16": {"directions": "random", "ranks": "binned", "precision": "bfloat16"},
    "mmdflow, structured": {"directions": "structured"},
    "mmdflow, structured, binned": {"directions": "structured", "ranks": "binned"},
}
#: Dimensions from which bfloat16 and structured directions are for.
WIDE = 100
PLAIN = {"three sorts": peers.three_sorts, "two sorts": peers.two_sorts}
OTHER = {"POT (W2)": peers.pot_sliced_wasserstein}
#: Particles and draws of directions that the error against the exact gradient of the MMD is taken over.
CHECKED, DRAWS = 100, 5


def report(options: Namespace) -> dict[str, Any]:
    variants = offered()
    other = peers.installed(dict.fromkeys(OTHER, "ot"))
    print(f"SlicedMMD velocity, n = m, float32, {options.threads} thread(s)", flush=True)
    table = Table(method=26, n=8, d=4, P=5, ms=10, ratio=7, error=9, of_slicing=10)
    rows = []
    for n, dim, count in SIZES:
        n, count = (n, count) if options.scale == "full" else (n // 10, count // 10)
        row = measure(n, dim, count, variants, other, options)
        rows.append(row)
        for name, of in row["methods"].items():
            errors = (f"{of[key]:.1e}" if key in of else "" for key in ("error", "slicing_error"))
            table.row(name, n, dim, count, f"{of['ms']:.1f}", f"{of['ratio']:.2f}", *errors)
    return {**provenance(), "draws": DRAWS, "rows": rows}


def unique(kinds: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(kinds))


def offered() -> list[str]:
    """Return the variants that this version of mmdflow has; print a line for each that it has not."""
    names = []
    for name, settings in VARIANTS.items():
        try:
            SlicedMMD(torch.zeros(1, WIDE), 1, **settings)
            names.append(name)
        except InputError as error:
            print(f"{name} is left out: {error}", flush=True)
    return names


def measure(n: int, dim: int, count: int, variants: list[str], other: list[str], options: Namespace) -> dict[str, Any]:
    """Return the row of one size.

    All draw their directions in the time, but for those that are kept. Errors: that of a method is against float64
    arithmetic and ranks of the same float32 points and directions; that of slicing, which it adds to, is of the float64
    gradient with directions of the same kind against the exact gradient of the MMD.
    """
    x, y = points(n, dim)
    torch.manual_seed(0)
    if dim < WIDE:
        variants = [name for name in variants if not {"structured", "bfloat16"} & set(VARIANTS[name].values())]
    divergences = {name: SlicedMMD(y, count, **VARIANTS[name]) for name in variants}
    calls = {name: (lambda divergence=divergence: divergence.velocity(x)) for name, divergence in divergences.items()}
    of_slices = PLAIN | {name: OTHER[name] for name in other}
    calls |= {name: (lambda of=of: of(x, y, peers.draw(count, dim))) for name, of in of_slices.items()}
    methods = interleaved(calls, options.repeats, options.seconds)
    for method in methods.values():
        method["ratio"] = method["ms"] / methods["mmdflow"]["ms"]

    rows = spread(n, CHECKED)
    unsliced = exact_gradient("riesz", x, y, rows)
    for kind in unique(VARIANTS[name].get("directions", "orthogonal") for name in variants):
        seeds = [torch.Generator().manual_seed(seed) for seed in range(DRAWS)]
        draws = [SlicedMMD(y, count, directions=kind, generator=seed).xi for seed in seeds]
        errors = [relative_error(sliced_gradient(x, y, xi, rows), unsliced) for xi in draws]
        slicing_error = statistics.fmean(error**2 for error in errors) ** 0.5
        xi = draws[0]
        exact = sliced_gradient(x, y, xi, slice(None))
        for name in variants:
            if VARIANTS[name].get("directions", "orthogonal") == kind:
                settings = VARIANTS[name] | {"redraw": False, "generator": torch.Generator().manual_seed(0)}
                divergence = SlicedMMD(y, count, **settings)  # the directions of the first draw
                methods[name] |= {
                    "error": relative_error(-divergence.velocity(x), exact),
                    "slicing_error": slicing_error,
                }
        if kind == "random":
            for name, of in PLAIN.items():
                methods[name] |= {"error": relative_error(of(x, y, xi), exact), "slicing_error": slicing_error}
    return {"n": n, "d": dim, "P": count, "methods": methods}


def sliced_gradient(
    x: torch.Tensor, y: torch.Tensor, directions: torch.Tensor, rows: torch.Tensor | slice
) -> torch.Tensor:
    """Return some rows of the gradient with the given directions, in float64, with mid-ranks."""
    x, y = x.double(), y.double()
    total = torch.zeros_like(x[rows])
    for xi in directions.double().split(max(1, 2**22 // (len(x) + len(y)))):
        on_x, on_y = xi @ x.T, xi @ y.T
        at = on_x[:, rows].contiguous()
        for line, sign in ((on_x.sort(1)[0], 1), (on_y.sort(1)[0], -1)):
            ranks = torch.searchsorted(line, at) + torch.searchsorted(line, at, right=True)  # twice the mid-ranks
            total += sign * ((1 - ranks.double() / line.shape[1]).T @ xi)
    return total * (riesz_scale(x.shape[1], 1.0) / len(directions))
