"""How closely the shipped image models' walk down the noise levels must be followed: Frechet distance by levels and integrator.

python benchmarks/walk.py [NAME ...] [--levels 6 12 25 50 100] [--num_samples 2000] [--output results/walk.json]

The same particles at the start of every cell, the exact sampler, the model's final steps on top; one thread. Names that are not
asked for keep the cells that the report had.
"""

import argparse
import json
from pathlib import Path

import torch
from measure import provenance

from mmdflow import DMMDPipeline
from mmdflow.recipes import run

INTEGRATORS = ("euler", "adams_bashforth")


def cells(name: str, levels: list[int], num_samples: int) -> list[dict]:
    """Return the distance of every cell."""
    pipeline = DMMDPipeline.from_pretrained(name)
    found = []
    for integrator in INTEGRATORS:
        for num_levels in levels:
            how = {"sampler": "exact", "integrator": integrator, "num_levels": num_levels}
            report = run.evaluate(pipeline, num_samples=num_samples, **how)
            keys = ("nfe", "classifier_fd", "num_samples", "sample_seconds")
            found.append({**how, **{key: report[key] for key in keys}})
            print(f"{name:<8} {integrator:<16} NFE {report['nfe']:4d}  FD {report['classifier_fd']:.2f}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["mnist", "fashion"])
    parser.add_argument("--levels", type=int, nargs="+", default=[6, 12, 25, 50, 100])
    parser.add_argument("--num_samples", type=int, default=2000)
    parser.add_argument("--output", default="results/walk.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    output = Path(options.output)
    for name in options.names:
        found = cells(name, options.levels, options.num_samples)
        rows = json.loads(output.read_text())["rows"] if output.exists() else {}
        report = {"command": "python benchmarks/walk.py", **provenance(), "rows": {**rows, name: found}}
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
