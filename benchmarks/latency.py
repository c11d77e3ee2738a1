"""What the first velocity of a process costs, before and after its compiled code is in numba's cache."""

import os
import statistics
import tempfile
from argparse import Namespace
from typing import Any

import fresh
from measure import Table, provenance

#: Fresh processes of each kind, of which the medians are reported.
PROCESSES = 3


def report(options: Namespace) -> dict[str, Any]:
    n = 5000 if options.scale == "full" else 500
    print(f"The first velocity of a process, n = m = {n}, d = 2, {options.threads} thread(s), in ms", flush=True)
    table = Table(divergence=12, cache=6, imports=8, first=9, next=9)
    rows = []
    for divergence in ("MMD", "SlicedMMD"):
        runs: dict[str, list[dict[str, float]]] = {"empty": [], "warm": []}
        for _ in range(PROCESSES):
            with tempfile.TemporaryDirectory() as folder:
                for found in runs.values():  # the second process finds what the first has compiled
                    environment = os.environ | {"NUMBA_CACHE_DIR": folder, "OMP_NUM_THREADS": str(options.threads)}
                    found.append(fresh.run("latency", divergence, n, environment=environment))
        for cache, found in runs.items():
            median = {key: statistics.median(run[key] for run in found) for key in found[0]}
            rows.append({"divergence": divergence, "cache": cache, **median})
            table.row(divergence, cache, *(f"{value:.1f}" for value in median.values()))
    return {**provenance(), "n": n, "d": 2, "rows": rows}
