"""Classes asked of DMMD on digits, through conditional target means: of flat features, whose means know more of the class.

python benchmarks/classes.py [--seconds 120] [--seeds 0 1 2] [--runs DIR] [--output results/classes.json]

The recipe dmmd-digits with 128 flat features, trained for S seconds of one core's own time with each seed. A row is 1436
samples, as many of each class as can be, with each model: the share that the classifier finds in the class asked for, and the
Frechet distance to all data. The same of the shipped model, of four squared residuals, is in `samplers.py`.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from samplers import conditional, judge, share_in_class

from mmdflow._files import commit
from mmdflow.data import load
from mmdflow.metrics import train_classifier
from mmdflow.runs.cache import trained

FLAT = {"features": {"head": "flat", "num_features": 128}}
N = 1436
GUIDANCE = (0.0, 1.0, 3.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/classes"))
    parser.add_argument("--output", type=Path, default=Path("results/classes.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load("digits")
    classifier = train_classifier(data.train, data.train_labels, data.test, data.test_labels)
    asked = torch.arange(N) % 10
    rows: dict[str, dict[str, list[float]]] = {}
    steps = []
    for seed in options.seeds:
        pipe = trained("dmmd-digits", options.runs, seed=seed, progress=False, seconds=options.seconds, changes=FLAT)
        pipe = conditional(pipe, data)
        steps.append(pipe.provenance["steps"])
        for sampler in ("exact", "approximate"):
            for guidance in (None, *GUIDANCE):
                settings = {} if guidance is None else {"labels": asked, "guidance": guidance}
                out = pipe(N, sampler=sampler, generator=torch.Generator().manual_seed(seed), **settings).particles
                name = f"{sampler}, " + ("no classes" if guidance is None else f"guidance {guidance:g}")
                row = rows.setdefault(name, {"frechet_distance": [], "share_in_class": []})
                row["frechet_distance"].append(judge(out, data, classifier))
                row["share_in_class"].append(share_in_class(out, asked, classifier))
    for name, row in rows.items():
        share, distance = (statistics.mean(row[key]) for key in ("share_in_class", "frechet_distance"))
        print(f"{name:30} in the class {share:.3f}  FD {distance:.1f}", flush=True)
    result = {
        "command": "python benchmarks/classes.py",
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
        "seconds": options.seconds,
        "seeds": options.seeds,
        "steps": steps,
        "num_samples": N,
        "classifier": classifier.name,
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
