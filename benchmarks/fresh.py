"""What is measured in a process of its own: `run` starts one, which prints one line of JSON.

python benchmarks/fresh.py latency MMD|SlicedMMD N
python benchmarks/fresh.py memory mmdflow|three_sorts N
python benchmarks/fresh.py drift METHOD N M REPEATS
python benchmarks/fresh.py growth quick N
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run(*arguments: Any, environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Return what a fresh process measures."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def latency(divergence: str, n: int) -> dict[str, float]:
    """Time the imports, then making a divergence and its first velocity together, then another velocity."""
    start = time.perf_counter()
    import torch

    from mmdflow import MMD, Gaussian, SlicedMMD

    imports = time.perf_counter() - start
    x, y = torch.randn(n, 2), torch.randn(n, 2) + 0.5
    start = time.perf_counter()
    of = MMD(y, Gaussian(2**0.5)) if divergence == "MMD" else SlicedMMD(y, 100)
    of.velocity(x)
    first = time.perf_counter() - start
    start = time.perf_counter()
    of.velocity(x)
    again = time.perf_counter() - start
    return {"imports_ms": 1000 * imports, "first_ms": 1000 * first, "next_ms": 1000 * again}


def memory(method: str, n: int) -> dict[str, float]:
    """Measure the peak memory of a flow step of n particles in 3 dimensions with 10 slices."""
    import peers

    from mmdflow import SlicedMMD, flow

    imported = peak_mb()
    from measure import points

    x, y = points(n, 3)
    start = time.perf_counter()
    if method == "mmdflow":
        flow(SlicedMMD(y, 10), x, step_size=1.0, num_steps=1)
    else:
        x -= peers.three_sorts(x, y, peers.draw(10, 3))
    return {"step_mb": peak_mb() - imported, "process_mb": peak_mb(), "seconds": time.perf_counter() - start}


def drift(method: str, n: int, m: int, repeats: int) -> dict[str, float]:
    """Measure the quickest of some velocities of a drift, in seconds of this process, and what they add to its memory."""
    import os

    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    import drift as suite

    suite.velocity(method, *suite.clouds(1000, 2000))  # compiled now
    x, y = suite.clouds(n, m)
    before, times = peak_mb(), []
    for _ in range(repeats):
        start = time.process_time()
        suite.velocity(method, x, y)
        times.append(time.process_time() - start)
    return {"seconds": min(times), "repeats": repeats, "mb": peak_mb() - before}


#: Bandwidth, tolerance and steps of a flow of a large population.
WIDTH, TOLERANCE, STEPS = 0.5, 1e-4, 3


def growth(method: str, n: int) -> dict[str, float]:
    """Time a whole step of n particles in the plane to as many targets, with F and a snapshot on disk, and its peak memory."""
    import torch
    from measure import points

    from mmdflow import MMD, Gaussian, flow, ops
    from mmdflow.flows import Record

    torch.set_num_threads(1)
    imported = peak_mb()
    x, y = points(n, 2)
    with tempfile.TemporaryDirectory() as folder, ops.backend("fast", tolerance=TOLERANCE) as sums:
        field, few = MMD(y, Gaussian(WIDTH)), points(3000, 2)[0]
        flow(MMD(few, Gaussian(WIDTH)), few + 1, step_size=0.1, num_steps=1)  # loads what is compiled
        start = time.process_time()
        flow(field, x, step_size=0.1, num_steps=STEPS, save_every=Record(1, snapshots=Path(folder, "moves.npy")))
        seconds = (time.process_time() - start) / STEPS
    assert sums is not None
    errors = {"error": sums.error, "quick": sums.quick, "exact": sums.exact}
    return {"seconds": seconds, "process_mb": peak_mb(), "step_mb": peak_mb() - imported, **errors}


def peak_mb() -> float:
    """Return this process's peak resident memory; getrusage would count that of the process that started it, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise SystemExit("peak memory is measured on Linux only: /proc/self/status has no VmHWM")


if __name__ == "__main__":
    measure = {"latency": latency, "memory": memory, "drift": drift, "growth": growth}[sys.argv[1]]
    measured = measure(sys.argv[2], *map(int, sys.argv[3:]))
    print(json.dumps(measured))
