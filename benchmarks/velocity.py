"""The MMD velocity against autograd through the plain pairwise MMD: the same work in one run, interleaved.

python benchmarks/velocity.py [--output FILE.json] [--repeats 7]

Each row: medians in milliseconds, the ratio of medians, and the relative error of each in float32 against autograd in float64.
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from pathlib import Path

import torch

from mmdflow import MMD, Gaussian, Kernel, Riesz

SIZES = [(1000, 2), (1000, 10), (1000, 100), (1000, 784), (3000, 10)]


def pairwise_gradient(x: torch.Tensor, y: torch.Tensor, kernel: str) -> torch.Tensor:
    """N * gradient of 1/2 MMD^2 by autograd through torch.cdist, as one writes it without a library."""
    x = x.detach().requires_grad_()

    def gram(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(a, b)
        return torch.exp(-distance.square() / (2 * a.shape[1])) if kernel == "gaussian" else -distance

    value = gram(x, x).mean() / 2 - gram(x, y).mean()
    return len(x) * torch.autograd.grad(value, x)[0]


def ours(kernel: str, dim: int) -> Kernel:
    return Gaussian(dim**0.5) if kernel == "gaussian" else Riesz()


def relative_error(value: torch.Tensor, exact: torch.Tensor) -> float:
    return float((value.double() - exact).norm() / exact.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'kernel':>9} {'n = m':>6} {'d':>4} {'mmdflow ms':>10} {'autograd ms':>12} {'ratio':>6} {'errors':>15}")
    for kernel in ("gaussian", "riesz"):
        for n, d in SIZES:
            generator = torch.Generator().manual_seed(0)
            x, y = torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator) + 0.5
            divergence = MMD(y, ours(kernel, d))
            exact = pairwise_gradient(x.double(), y.double(), kernel)
            calls = {"mmdflow": lambda: -divergence.velocity(x), "autograd": lambda: pairwise_gradient(x, y, kernel)}  # noqa: B023
            times: dict[str, list[float]] = {name: [] for name in calls}
            errors = {name: relative_error(call(), exact) for name, call in calls.items()}  # warms up besides
            for _ in range(options.repeats):
                for name, call in calls.items():
                    start = time.perf_counter()
                    call()
                    times[name].append(1000 * (time.perf_counter() - start))
            a, b = (statistics.median(times[name]) for name in ("mmdflow", "autograd"))
            rows.append(
                {"kernel": kernel, "n": n, "d": d, "mmdflow_ms": a, "autograd_ms": b, "ratio": b / a, "errors": errors}
            )
            print(
                f"{kernel:>9} {n:6d} {d:4d} {a:10.2f} {b:12.2f} {b / a:6.2f} {errors['mmdflow']:7.0e} {errors['autograd']:7.0e}"
            )
    if options.output:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], capture_output=True, text=True
        )
        report = {
            "command": "python benchmarks/velocity.py",
            "commit": commit.stdout.strip(),
            "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
            "rows": rows,
        }
        Path(options.output).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
