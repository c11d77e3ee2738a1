"""Directions of the sliced MMD: errors of its gradient, slices saved against random directions, and the time of projections.

python benchmarks/directions_study.py [--output FILE.json] [--parts errors large bias speed bfloat16]

The gradient of SlicedMMD (r = 1, float64) at 300 particles N(0, I) is compared with that of MMD with the Riesz kernel. Targets
of 300 points: "normal", N(0, I) moved by 2 along a coordinate; "clusters", 8 of them, 0.1 wide, with centres 3 N(0, I); "point",
all mass at distance 5, for which a slice's gradient jumps with the direction. Errors are root mean squares over draws of the
directions, relative to the norm of the exact gradient. The error of P random directions is (V / P)^(1/2); an error e therefore
saves a factor V / (P e^2).
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measure import interleaved, provenance

from mmdflow import MMD, Riesz, SlicedMMD
from mmdflow.divergences.directions import (
    draw_directions,
    draw_signs,
    riesz_scale,
    structured_scales,
)
from mmdflow.ops.numba_hadamard import back, project

POINTS = 300
SMALL = {"dims": (2, 3, 5, 10, 20, 50, 100), "counts": tuple(2**k for k in range(2, 13, 2)), "draws": 8}
LARGE = ((256, 1024), (300, 1200), (784, 1000), (784, 4096), (1024, 4096))


def problem(target: str, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(dim)

    def normal(count: int) -> torch.Tensor:
        return torch.randn(count, dim, dtype=torch.float64, generator=generator)

    x = normal(POINTS)
    if target == "normal":
        y = normal(POINTS)
        y[:, 0] += 2
    elif target == "clusters":
        y = 3 * normal(8)[torch.randint(8, (POINTS,), generator=generator)] + 0.1 * normal(POINTS)
    else:
        y = 5 * torch.nn.functional.normalize(normal(1), dim=1)
    return x, y


def errors(x: torch.Tensor, y: torch.Tensor, kind: str, count: int, draws: int) -> list[float]:
    exact = MMD(y, Riesz()).velocity(x)
    sliced = SlicedMMD(y, count, directions=kind, generator=torch.Generator().manual_seed(count))
    return [float((sliced.velocity(x) - exact).norm() / exact.norm()) for _ in range(draws)]


def root_mean_square(values: list[float]) -> float:
    return math.sqrt(statistics.fmean(value**2 for value in values))


def compare(
    dim: int, counts: tuple[int, ...], kinds: tuple[str, ...], draws: int, targets: tuple[str, ...]
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for target in targets:
        x, y = problem(target, dim)
        of_random = {count: errors(x, y, "random", count, draws) for count in counts}
        variance = statistics.fmean(count * e**2 for count, values in of_random.items() for e in values)
        for count in counts:
            row: dict[str, object] = {"target": target, "d": dim, "P": count, "random": (variance / count) ** 0.5}
            for kind in kinds:
                error = root_mean_square(errors(x, y, kind, count, draws))
                row[kind], row[f"{kind} saves"] = error, variance / (count * error**2)
            rows.append(row)
            print(
                " | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()),
                flush=True,
            )
    return rows


def small_dimensions() -> list[dict[str, object]]:
    kinds = ("orthogonal", "qmc", "optimized")
    print("target | d | P | random |", " | ".join(f"{kind} | saves" for kind in kinds))
    targets = ("normal", "clusters", "point")
    return [row for dim in SMALL["dims"] for row in compare(dim, SMALL["counts"], kinds, SMALL["draws"], targets)]


def large_dimensions() -> list[dict[str, object]]:
    kinds = ("orthogonal", "optimized", "structured")
    print("target | d | P | random |", " | ".join(f"{kind} | saves" for kind in kinds))
    return [row for dim, count in LARGE for row in compare(dim, (count,), kinds, 4, ("normal", "clusters"))]


def bias(draws: int = 400) -> list[dict[str, object]]:
    """c_d mean |<xi, z>| / |z| - 1 over all rows of many draws of structured directions, with its standard error."""
    rows: list[dict[str, object]] = []
    print("d | z | bias | standard error")
    for dim in (256, 300, 784):
        generator = torch.Generator().manual_seed(0)
        z = torch.zeros(6, dim, dtype=torch.float64)
        z[0, 5] = z[1, [5, 6]] = z[2, [5, dim - 1]] = z[3, :8] = z[4, :] = 1
        z[5] = torch.randn(dim, dtype=torch.float64, generator=generator)
        z /= z.norm(dim=1, keepdim=True)
        means = []
        size = 1 << (dim - 1).bit_length()
        for _ in range(draws):
            signs = draw_signs(size, dim, generator)
            means.append(
                project(z, signs, structured_scales(signs, size, dim)).abs().mean(0) * riesz_scale(dim, 1.0) - 1
            )
        deviations, values = torch.std_mean(torch.stack(means), 0)
        names = ("one coordinate", "two neighbours", "two apart", "the first eight", "all equal", "a normal vector")
        for name, value, deviation in zip(names, values.tolist(), deviations.tolist(), strict=True):
            rows.append({"d": dim, "z": name, "bias": value, "standard_error": deviation / draws**0.5})
            print(dim, "|", name, "|", f"{value:.5f} | {deviation / draws**0.5:.5f}", flush=True)
    return rows


def speed() -> list[dict[str, object]]:
    """Projections of n points on P directions and back in float32, structured, by torch.mm and in bfloat16."""
    rows: list[dict[str, object]] = []
    for n, dim, count in ((10_000, 784, 1000), (10_000, 1024, 1024), (10_000, 256, 1024), (10_000, 3072, 4096)):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(n, dim, generator=generator)
        signs = draw_signs(count, dim, generator)
        scales = structured_scales(signs, count, dim).float()
        signs = signs.float()
        xi = torch.randn(count, dim, generator=generator)
        z, g = torch.empty(count, n), torch.empty(n, dim)
        x16, xi16, z16, g16 = (t.bfloat16() for t in (x, xi, z, g))
        calls: dict[str, Callable[[], object]] = {
            "project structured": lambda: project(x, signs, scales, out=z),  # noqa: B023
            "project float32": lambda: torch.mm(xi, x.T, out=z),  # noqa: B023
            "project bfloat16": lambda: torch.mm(xi16, x16.T, out=z16),  # noqa: B023
            "project bfloat16 to float32": lambda: z.copy_(torch.mm(xi16, x16.T, out=z16)),  # noqa: B023
            "back structured": lambda: back(z, signs, scales, dim, out=g),  # noqa: B023
            "back float32": lambda: torch.mm(z.T, xi, out=g),  # noqa: B023
            "back bfloat16": lambda: torch.mm(z16.T, xi16, out=g16),  # noqa: B023
        }
        if dim == 784:
            calls["draw orthogonal"] = lambda: draw_directions(count, dim, "orthogonal")  # noqa: B023
            calls["draw random"] = lambda: draw_directions(count, dim, "random")  # noqa: B023
            calls["draw structured"] = lambda: draw_directions(count, dim, "structured")  # noqa: B023
            calls["draw signs and scales"] = lambda: structured_scales(draw_signs(count, dim), count, dim)  # noqa: B023
        times = {name: of["ms"] for name, of in interleaved(calls, 9, math.inf).items()}
        rows.append({"n": n, "d": dim, "P": count, **times})
        print(json.dumps({key: round(value, 2) for key, value in rows[-1].items()}), flush=True)
    return rows


def mid_ranks(z: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The share of the points below each z, ties counted half."""
    ordered = points.sort(1).values
    ranks = torch.searchsorted(ordered, z) + torch.searchsorted(ordered, z, right=True)
    return ranks.to(torch.float64) / (2 * points.shape[1])


def bfloat16(dim: int = 784, count: int = 1000) -> list[dict[str, object]]:
    """The error that bfloat16 adds to the gradient of the same slices in float64, beside the error of slicing."""
    rows: list[dict[str, object]] = []
    for n in (1000, 10_000):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(n, dim, dtype=torch.float64, generator=generator)
        y = torch.randn(n, dim, dtype=torch.float64, generator=generator)
        y[:, 0] += 2
        xi = draw_directions(count, dim, "orthogonal", generator)
        exact = -MMD(y, Riesz()).velocity(x)

        def gradient(kind: torch.dtype, back_kind: torch.dtype) -> torch.Tensor:
            a, b = ((xi.to(kind) @ points.to(kind).T).contiguous() for points in (x, y))  # noqa: B023
            slopes = 2 * (mid_ranks(a.double(), b.double()) - mid_ranks(a.double(), a.double()))
            product = slopes.T.to(back_kind) @ xi.to(back_kind)  # noqa: B023
            return product.double() * riesz_scale(dim, 1.0) / count

        single, half, double = torch.float32, torch.bfloat16, torch.float64
        plain = gradient(double, double)
        row: dict[str, object] = {"n": n, "slicing": float((plain - exact).norm() / exact.norm())}
        for name, kinds in {
            "float32": (single, single),
            "bfloat16 projections": (half, single),
            "bfloat16 back": (single, half),
            "bfloat16 both": (half, half),
        }.items():
            value = gradient(*kinds)
            row[name] = float((value - plain).norm() / plain.norm())
            row[f"{name}, mean of the particles"] = float((value - plain).mean(0).norm() / plain.mean(0).norm())
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


PARTS: dict[str, Callable[[], list[dict[str, object]]]] = {
    "errors": small_dimensions,
    "large": large_dimensions,
    "bias": bias,
    "speed": speed,
    "bfloat16": bfloat16,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = {}
    for part in options.parts:
        print(f"\n{part}")
        tables[part] = PARTS[part]()
    if options.output:
        report = {"command": " ".join(["python", *sys.argv]), **provenance(), **tables}
        Path(options.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
