"""Sums and slices on a GPU, against plain torch, torch.compile and KeOps where they are installed. One command:

python benchmarks/gpu.py [--repeats 7] [--output results/bench-gpu.json] [--device cuda] [--divide 1]

Sums: sum_j w_j grad_1 k(x_i, y_j) of 100,000 points at 100,000 others, in 3 and 64 dimensions. Slices: the velocity of
`SlicedMMD` of 1,000,000 particles in 3-D on 100 directions, which mmdflow draws too unless they are kept; plain torch is given
them. Float32, calls in turns, medians. Errors are relative, |found - exact| / |exact| over some rows, to float64 by torch.

`of_limit` is the share of what the device reached in the same run. For sums: of the rate of a float32 matrix product in full
precision. A pair counts as 4 d operations above 16 dimensions (two products) and as 5 d + 3 below, where 1 is out of reach
because not all of them pair up as multiply-add. For slices: of the bandwidth of a copy. A projection counts as 24 bytes: it is
written and read, and so is its place in the order, of 8 bytes.

`--device cpu --divide 100` runs the same on the CPU with fewer points, to see that all of it works.
"""

import argparse
import importlib.util
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import COMMIT, interleaved, relative_error
from torch import Tensor

from mmdflow import Gaussian, Riesz, SlicedMMD, ops
from mmdflow._files import write_json
from mmdflow.divergences.directions import riesz_scale

#: Rows of x that plain torch takes at a time, and rows that errors are taken over.
BLOCK, CHECKED = 1000, 500
#: Numbers of a block of slices.
SLICED = 2**25


def slope(kernel: str, r2: Tensor, dim: int) -> Tensor:
    """Return the s(|x - y|^2) of grad_1 k = s (x - y): the Gaussian kernel of bandwidth d^(1/2), or -|x - y|."""
    if kernel == "gaussian":
        return torch.exp(-r2 / (2 * dim)) / -dim
    return torch.where(r2 == 0, 0.0, -r2.rsqrt())


def block(kernel: str, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the sums at a block of rows of x, as one writes them in plain torch."""
    dim = x.shape[1]
    if dim <= 16:
        differences = [x[:, k, None] - y[None, :, k] for k in range(dim)]
        s = weights * slope(kernel, sum(t.square() for t in differences), dim)
        return torch.stack([(s * t).sum(1) for t in differences], 1)
    r2 = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    s = weights * slope(kernel, r2.clamp_min(0), dim)
    return s.sum(1, keepdim=True) * x - s @ y


def blocks(of: Callable[..., Tensor], kernel: str, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return torch.cat([of(kernel, rows, y, weights) for rows in x.split(BLOCK)])


def keops(kernel: str, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    from pykeops.torch import LazyTensor

    dim = x.shape[1]
    difference = LazyTensor(x[:, None, :]) - LazyTensor(y[None, :, :])
    r2 = (difference**2).sum(-1)
    s = (-r2 / (2 * dim)).exp() * (-1 / dim) if kernel == "gaussian" else -r2.rsqrt()
    return (s * LazyTensor(weights[None, :, None]) * difference).sum(1)


def slices(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """Return the velocity of the sliced MMD at r = 1: one sort of both projections, whose running signed weight is the slope."""
    n, m = len(x), len(y)
    total, weights = torch.zeros_like(x), torch.cat([x.new_full((n,), 1 / n), x.new_full((m,), -1 / m)])
    points = torch.cat([x, y]).T
    for xi in directions.split(max(1, SLICED // (n + m))):
        order = (xi @ points).argsort(1)
        sorted_weights = weights[order]
        slopes = 2 * sorted_weights.double().cumsum(1).to(x.dtype) - sorted_weights  # of the sum of w_j |s - t_j|
        total += torch.empty_like(slopes).scatter_(1, order, slopes)[:, :n].T @ xi
    return total * (riesz_scale(x.shape[1], 1.0) / len(directions))


def limits(device: str, size: int, repeats: int) -> dict[str, float]:
    """Return the rate of a matrix product in full float32 precision, and of a copy (what it reads and writes)."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    numbers = torch.zeros(4 * size**2, device=device)
    target = torch.empty_like(numbers)
    taken = interleaved({"product": lambda: a @ b, "copy": lambda: target.copy_(numbers)}, repeats, math.inf)
    return {
        "gflops": 2 * size**3 / taken["product"]["ms"] / 1e6,
        "gb_per_s": 8 * numbers.numel() / taken["copy"]["ms"] / 1e6,
    }


def sums(kernel: str, n: int, dim: int, device: str, repeats: int, gflops: float) -> dict[str, Any]:
    """Return the row of one kernel and dimension."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, dim, generator=generator).to(device) for _ in range(2))
    weights = torch.randn(n, generator=generator).to(device) / n
    ours = Gaussian(dim**0.5) if kernel == "gaussian" else Riesz()
    compiled = torch.compile(block, dynamic=False)
    calls = {
        "mmdflow": lambda: ops.kernel_sum_grad(ours, x, y, weights),
        "torch": lambda: blocks(block, kernel, x, y, weights),
        "torch.compile": lambda: blocks(compiled, kernel, x, y, weights),
    }
    if importlib.util.find_spec("pykeops"):
        calls["KeOps"] = lambda: keops(kernel, x, y, weights)
    rows = torch.linspace(0, n - 1, min(n, CHECKED)).round().long().to(device)
    exact = torch.cat([_exact(kernel, part, y, weights) for part in x[rows].split(50)])
    methods = interleaved(calls, repeats, math.inf)
    for name, call in calls.items():
        methods[name] |= {
            "ratio": methods[name]["ms"] / methods["mmdflow"]["ms"],
            "error": relative_error(call()[rows], exact),
        }
    flops = n * n * (4 * dim if dim > 16 else 5 * dim + 3)
    methods["mmdflow"]["of_limit"] = flops / methods["mmdflow"]["ms"] / 1e6 / gflops
    return {"work": f"sums, {kernel}", "n": n, "d": dim, "methods": methods}


def _exact(kernel: str, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the sums in float64, by exact differences in any dimension."""
    x, y, weights = x.double(), y.double(), weights.double()
    r2 = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    s = weights * slope(kernel, r2, x.shape[1])
    return s.sum(1, keepdim=True) * x - s @ y


def sliced(n: int, dim: int, count: int, device: str, repeats: int, gb_per_s: float) -> dict[str, Any]:
    """Return the row of the sliced velocity."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, dim, generator=generator).to(device) + shift for shift in (0.0, 0.5))
    drawn, kept = (
        SlicedMMD(y, count, generator=torch.Generator().manual_seed(0), redraw=redraw) for redraw in (True, False)
    )
    calls = {
        "mmdflow": lambda: drawn.velocity(x),
        "mmdflow, kept directions": lambda: kept.velocity(x),
        "torch": lambda: slices(x, y, kept.xi),
    }
    methods = interleaved(calls, repeats, math.inf)
    for name, call in calls.items():
        found = call()  # on the directions that are the divergence's from now on
        exact = slices(x.double(), y.double(), (drawn if name == "mmdflow" else kept).xi.double())
        methods[name] |= {
            "ratio": methods[name]["ms"] / methods["mmdflow"]["ms"],
            "error": relative_error(found, exact),
        }
    moved = 24 * count * 2 * n
    methods["mmdflow"]["of_limit"] = moved / methods["mmdflow"]["ms"] / 1e6 / gb_per_s
    return {"work": "sliced velocity", "n": n, "d": dim, "P": count, "methods": methods}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("results/bench-gpu.json"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--divide", type=int, default=1, help="take that many times fewer points")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: torch finds no CUDA device; --device cpu --divide 100 tries it out on the CPU")
    for name in ("repeats", "divide"):
        if getattr(options, name) < 1:
            sys.exit(f"benchmarks/gpu.py: --{name} = {getattr(options, name)}: must be a whole number of at least 1")
    torch.backends.cuda.matmul.fp32_precision = "ieee"  # for all methods alike
    n, device, repeats = 100_000 // options.divide, options.device, options.repeats
    limit = limits(device, max(256, 8192 // math.isqrt(options.divide)), repeats)
    print(f"{limit['gflops']:.0f} GFLOP/s of products, {limit['gb_per_s']:.0f} GB/s of copies", flush=True)
    widths = "{:<18} {:>3} {:<25} {:>10} {:>10} {:>7} {:>9} {:>9}"
    print(widths.format("work", "d", "method", "ms", "first ms", "ratio", "error", "of limit"), flush=True)
    rows = []
    todo = [(sums, (kernel, n, dim), "gflops") for dim in (3, 64) for kernel in ("gaussian", "riesz")]
    todo += [(sliced, (10 * n, 3, 100), "gb_per_s")]
    for of, work, key in todo:
        rows.append(row := of(*work, device, repeats, limit[key]))
        for name, found in row["methods"].items():
            numbers = (
                f"{found['ms']:.2f}",
                f"{found['first_call_ms']:.0f}",
                f"{found['ratio']:.2f}",
                f"{found['error']:.1e}",
            )
            share = f"{found['of_limit']:.2f}" if "of_limit" in found else ""
            print(widths.format(row["work"], row["d"], name, *numbers, share), flush=True)
    write_json(
        options.output,
        {
            "command": " ".join(["python", *sys.argv]),
            "commit": COMMIT,
            "date": time.strftime("%Y-%m-%d"),
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "limits": limit,
            "rows": rows,
        },
    )
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
