"""Solvers beside those of an older checkout, each in a process of its own: seconds, peak memory, and how far they are apart.

git worktree add /tmp/before 57175cc
python benchmarks/solvers.py /tmp/before [--points 10000] [--only kale ...] [--output results]

Writes bench-solvers-before.json. The work is the first and a warm velocity of n particles and n target samples of two normal
clouds in the plane, float64, as in `fast_sums.py --solvers`, whose quick sums are taken here, too; the old checkout is called as
it was. Times are those of the process on one thread, each taken once.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

#: Bandwidth, lambda, tolerance of quick sums, and how far particles move before the warm step: as in fast_sums.py.
WIDTH, RIDGE, SUMS, MOVE = 0.7, 1e-2, 1e-9, 0.05


def one(name: str, n: int, path: Path) -> dict[str, float]:
    """Measure a solver of the checkout that is imported, and save its first velocity."""
    import numpy as np
    import torch
    from fresh import peak_mb

    import mmdflow

    imported = peak_mb()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=generator).double()
    y = torch.randn(n, 2, generator=generator).double() + 0.5
    kernel = mmdflow.Gaussian(WIDTH)
    makes = {
        "kale": lambda target: mmdflow.KALE(target, kernel, RIDGE),
        "f-divergence chi2": lambda target: mmdflow.FDivergence(target, kernel, RIDGE, "chi2"),
        "sobolev": lambda target: mmdflow.SobolevDescent(target, kernel, RIDGE),
    }
    within = getattr(importlib.import_module("mmdflow.ops"), "within", None)
    with nullcontext() if within is None else within(SUMS):
        makes[name](y[:2000]).velocity(x[:2000])  # loads what is compiled
        loaded = peak_mb()
        start = time.process_time()
        divergence = makes[name](y)
        velocity = divergence.velocity(x)
        first = time.process_time()
        np.save(path, velocity.numpy())
        divergence.velocity(x + MOVE * RIDGE * velocity)
        warm = time.process_time() - first
    memory = {"process_mb": peak_mb(), "step_mb": peak_mb() - imported, "code_mb": loaded - imported}
    return {"first_s": first - start, "warm_s": warm} | memory


def run(name: str, n: int, source: Path, path: Path) -> dict[str, float]:
    """Measure a solver of a checkout in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name, "--points", str(n), "--output", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", type=Path, help="the older checkout")
    parser.add_argument("--points", type=int, default=10_000, help="n = m")
    parser.add_argument("--only", nargs="+", default=["kale", "f-divergence chi2"])
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(one(options.one, options.points, options.output)))
        return
    if options.before is None or not (options.before / "src" / "mmdflow").is_dir():
        parser.error(f"{options.before}: must be a checkout of mmdflow")
    report(options)


def report(options: argparse.Namespace) -> None:
    import numpy as np
    from measure import Table, provenance

    from mmdflow._files import make_folder, write_json

    make_folder(options.output)
    head = {"command": " ".join(["python", *sys.argv]), "load_before": os.getloadavg()[0]}
    table, rows = Table(solver=20, which=8, first=9, warm=9, MB=8, ratio=8, error=9), []
    sources = {"now": Path(__file__).parents[1] / "src", "before": options.before / "src"}
    for name in options.only:
        row: dict[str, Any] = {"divergence": name, "n": options.points}
        with tempfile.TemporaryDirectory() as folder:
            for which, source in sources.items():
                row[which] = run(name, options.points, source, Path(folder, f"{which}.npy"))
            now, before = (np.load(Path(folder, f"{which}.npy")) for which in sources)
        row["error"] = float(np.linalg.norm(now - before) / np.linalg.norm(before))
        for which in sources:
            of = row[which]
            ratio = of["first_s"] / row["now"]["first_s"]
            numbers = f"{of['first_s']:.2f}", f"{of['warm_s']:.2f}", f"{of['process_mb']:.0f}", f"{ratio:.1f}"
            table.row(name, which, *numbers, f"{row['error']:.0e}" if which == "now" else "")
        rows.append(row)
        write_json(options.output / "bench-solvers-before.json", head | provenance() | {"rows": rows})


if __name__ == "__main__":
    main()
