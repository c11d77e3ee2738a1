"""A search of every rival's settings on one data set, with the same small budget for each: as many candidates, as many seconds.

python benchmarks/search.py DATA [--seconds S] [--systems NAME ...] [--num-samples N] [--runs DIR] [--output FILE]

Every candidate is the recipe SYSTEM-DATA with the changes of its row, trained for S seconds of one core's own time with seed 0
and judged by the data set's classifier (the checkerboard by sliced W_2). "before" names what the recipe had before the search,
and every row all that the search changes, so that rows mean the same after the recipes have changed. Finished runs are kept;
the report keeps the rows that it had.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from mmdflow._files import commit
from mmdflow.errors import DivergedError
from mmdflow.evaluation import models
from mmdflow.evaluation.figures import read_report
from mmdflow.runs.cache import trained


def whole(*changes: dict[str, Any]) -> dict[str, Any]:
    """Return changes together; of two of one setting the later holds."""
    found: dict[str, Any] = {}
    for change in changes:
        for part, new in change.items():
            found[part] = {**found.get(part, {}), **new} if isinstance(new, dict) else new
    return found


#: A flow of GS-MMD-RK whose steps are cheap and go far.
QUICK = {
    "num_particles": 2000,
    "directions": "structured",
    "precision": "full",
    "step_size": 4.0,
    "momentum": 0.9,
}
#: The coarse trunk of recipes of 28x28 images, which DMMD's began with, and the fine one, which its rivals began with.
COARSE = {"channels": [96], "blocks": 3, "patch": 4}
FINE = {"channels": [32, 64], "blocks": 2, "patch": 2}
#: What the recipes had before the search, where candidates do not say it.
BEFORE: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        "mmd-gan": {"training": {"batch_size": 64, "step_size": 0.002}},
        "gs-mmd-rk": {"training": {"step_size": 0.002}},
        "jko-flow": {"training": {"batch_size": 64, "step_size": 0.001}},
        "dggf-kl": {"training": {"batch_size": 64, "step_size": 0.001}},
        "discriminator-flow": {"training": {"batch_size": 64}},
    },
    "checkerboard": {
        "gs-mmd-rk": {"flow": {"momentum": 0.8}, "loss": {"num_networks": 4}, "training": {"step_size": 0.002}},
        "jko-flow": {"loss": {"num_stages": 4, "jko_step": 1.0, "penalty": 0.001}},
        "dggf-kl": {"loss": {"step_size": 0.001, "penalty_weight": 0.0002}, "training": {"step_size": 0.001}},
        "discriminator-flow": {"loss": {"num_steps": 64}, "training": {"step_size": 0.001, "batch_size": 512}},
        "ddpm": {"schedule": "ddpm", "training": {"step_size": 0.002, "batch_size": 512}},
        "flow-matching": {"training": {"step_size": 0.002, "batch_size": 512}},
        "mmd-gan": {"loss": {"penalty_weight": 0.05}, "training": {"step_size": 0.002}},
    },
}

MNIST: dict[str, dict[str, dict[str, Any]]] = {
    "dmmd": {
        "as it is": {},
        "step size 0.004": {"training": {"step_size": 0.004}},
        "coarse trunk": {"features": COARSE},
        "two levels of 16": {"loss": {"num_levels": 2}, "training": {"events_per_level": 16}},
        "one squared residual": {"features": {"num_residuals": 1}},
        "diversity weight 0.1": {"loss": {"diversity_weight": 0.1}},
        "points uniform on segments": {"loss": {"penalty_points": "segment", "pairing": "paired"}},
    },
    "ddpm": {
        "before": {"features": FINE, "training": {"step_size": 0.004, "batch_size": 64}},
        "coarse trunk": {"features": COARSE, "training": {"step_size": 0.004, "batch_size": 64}},
        "batches of 32": {"features": FINE, "training": {"step_size": 0.004, "batch_size": 32}},
        "step size 0.002": {"features": FINE, "training": {"step_size": 0.002, "batch_size": 64}},
        "batches of 16": {"features": FINE, "training": {"step_size": 0.004, "batch_size": 16}},
        "batches of 32, step size 0.008": {"features": FINE, "training": {"step_size": 0.008, "batch_size": 32}},
    },
    "flow-matching": {
        "before": {"features": FINE, "training": {"step_size": 0.002, "weight_decay": 0.01, "batch_size": 64}},
        "coarse trunk": {"features": COARSE, "training": {"step_size": 0.002, "weight_decay": 0.01, "batch_size": 64}},
        "batches of 32": {"features": FINE, "training": {"step_size": 0.002, "weight_decay": 0.01, "batch_size": 32}},
        "step size 0.004, no decay": {
            "features": FINE,
            "training": {"step_size": 0.004, "weight_decay": 0.0, "batch_size": 64},
        },
        "step size 0.004, no decay, batches of 32": {
            "features": FINE,
            "training": {"step_size": 0.004, "weight_decay": 0.0, "batch_size": 32},
        },
        "step size 0.008, no decay, batches of 32": {
            "features": FINE,
            "training": {"step_size": 0.008, "weight_decay": 0.0, "batch_size": 32},
        },
    },
    "mmd-gan": {
        "before": {"features": FINE, "critic": FINE, "loss": {"penalty_weight": 1.0}},
        "coarse trunks": {"features": COARSE, "critic": COARSE, "loss": {"penalty_weight": 1.0}},
        "coarse critic": {"features": FINE, "critic": COARSE, "loss": {"penalty_weight": 1.0}},
        "coarse trunks, penalty 0.3": {"features": COARSE, "critic": COARSE, "loss": {"penalty_weight": 0.3}},
        "coarse trunks, step size 0.001": {
            "features": COARSE,
            "critic": COARSE,
            "loss": {"penalty_weight": 1.0},
            "training": {"step_size": 0.001},
        },
        "fine trunks, batches of 32": {
            "features": FINE,
            "critic": FINE,
            "loss": {"penalty_weight": 1.0},
            "training": {"batch_size": 32},
        },
    },
    "gs-mmd-rk": {
        "before": {
            "features": FINE,
            "flow": {
                "num_particles": 4000,
                "directions": "orthogonal",
                "precision": "bfloat16",
                "step_size": 2.0,
                "momentum": 0.8,
                "first_steps": 30,
                "growth": 3.0,
            },
            "loss": {"num_networks": 4},
        },
        "coarse trunk, structured directions, tau 4": {
            "features": COARSE,
            "flow": {**QUICK, "first_steps": 40, "growth": 3.0},
            "loss": {"num_networks": 4},
        },
        "the same, fine trunk": {
            "features": FINE,
            "flow": {**QUICK, "first_steps": 40, "growth": 3.0},
            "loss": {"num_networks": 4},
        },
        "coarse, 2 networks": {
            "features": COARSE,
            "flow": {**QUICK, "first_steps": 100, "growth": 6.0},
            "loss": {"num_networks": 2},
        },
        "coarse, 2 networks, step size 0.004": {
            "features": COARSE,
            "flow": {**QUICK, "first_steps": 100, "growth": 6.0},
            "loss": {"num_networks": 2},
            "training": {"step_size": 0.004},
        },
        "coarse, 1 network": {
            "features": COARSE,
            "flow": {**QUICK, "first_steps": 600},
            "loss": {"num_networks": 1},
        },
    },
    "jko-flow": {
        "before": {"features": FINE, "loss": {"num_stages": 3, "jko_step": 200.0}},
        "coarse trunk": {"features": COARSE, "loss": {"num_stages": 3, "jko_step": 200.0}},
        "coarse, 2 stages": {"features": COARSE, "loss": {"num_stages": 2, "jko_step": 200.0}},
        "coarse, 2 stages, step size 0.002": {
            "features": COARSE,
            "loss": {"num_stages": 2, "jko_step": 200.0},
            "training": {"step_size": 0.002},
        },
        "coarse, 2 stages, step size 0.004": {
            "features": COARSE,
            "loss": {"num_stages": 2, "jko_step": 200.0},
            "training": {"step_size": 0.004},
        },
        "coarse, 2 stages, step size 0.002, batches of 32": {
            "features": COARSE,
            "loss": {"num_stages": 2, "jko_step": 200.0},
            "training": {"step_size": 0.002, "batch_size": 32},
        },
    },
    "dggf-kl": {
        "before": {"features": FINE, "loss": {"penalty_weight": 0.3}},
        "coarse trunk": {"features": COARSE, "loss": {"penalty_weight": 0.3}},
        "coarse, penalty 0.1": {"features": COARSE, "loss": {"penalty_weight": 0.1}},
        "coarse, penalty 1": {"features": COARSE, "loss": {"penalty_weight": 1.0}},
        "fine, batches of 32": {
            "features": FINE,
            "loss": {"penalty_weight": 0.3},
            "training": {"batch_size": 32},
        },
        "fine, step size 0.002": {
            "features": FINE,
            "loss": {"penalty_weight": 0.3},
            "training": {"step_size": 0.002},
        },
    },
    "discriminator-flow": {
        "before": {"features": FINE, "training": {"step_size": 0.001}},
        "coarse trunk": {"features": COARSE, "training": {"step_size": 0.001}},
        "coarse, step size 0.002": {"features": COARSE, "training": {"step_size": 0.002}},
        "coarse, penalty 0.1": {
            "features": COARSE,
            "training": {"step_size": 0.001},
            "loss": {"penalty_weight": 0.1},
        },
        "coarse, step size 0.004": {"features": COARSE, "training": {"step_size": 0.004}},
        "coarse, step size 0.002, batches of 32": {
            "features": COARSE,
            "training": {"step_size": 0.002, "batch_size": 32},
        },
    },
}


CHECKERBOARD: dict[str, dict[str, dict[str, Any]]] = {
    "dmmd": {
        "as it is": {},
        "step size 0.002": {"training": {"step_size": 0.002}},
        "level power 1": {"loss": {"level_power": 1.0}},
        "diversity weight 0.3": {"loss": {"diversity_weight": 0.3}},
    },
    "ddpm": {
        "before": {},
        "cosine": {"schedule": "cosine"},
        "cosine, step size 0.004": {"schedule": "cosine", "training": {"step_size": 0.004}},
        "cosine, batches of 256": {"schedule": "cosine", "training": {"batch_size": 256}},
    },
    "flow-matching": {
        "before": {},
        "step size 0.004": {"training": {"step_size": 0.004}},
        "step size 0.001": {"training": {"step_size": 0.001}},
        "batches of 256": {"training": {"batch_size": 256}},
    },
    "mmd-gan": {
        "before": {},
        "penalty 0.02": {"loss": {"penalty_weight": 0.02}},
        "penalty 0.15": {"loss": {"penalty_weight": 0.15}},
        "step size 0.001": {"training": {"step_size": 0.001}},
    },
    "gs-mmd-rk": {
        "before": {},
        "2 networks": {"loss": {"num_networks": 2}},
        "momentum 0.9": {"flow": {"momentum": 0.9}},
        "step size 0.004": {"training": {"step_size": 0.004}},
    },
    "jko-flow": {
        "before": {},
        "a = 4": {"loss": {"jko_step": 4.0}},
        "2 stages, a = 4": {"loss": {"num_stages": 2, "jko_step": 4.0}},
        "penalty 0.003": {"loss": {"penalty": 0.003}},
    },
    "dggf-kl": {
        "before": {},
        "step size 0.002": {"training": {"step_size": 0.002}},
        "eta 0.003": {"loss": {"step_size": 0.003}},
        "penalty 0.00005": {"loss": {"penalty_weight": 5e-5}},
    },
    "discriminator-flow": {
        "before": {},
        "step size 0.002": {"training": {"step_size": 0.002}},
        "32 steps": {"loss": {"num_steps": 32}},
        "batches of 256": {"training": {"batch_size": 256}},
    },
}
SEARCHES = {"mnist": MNIST, "checkerboard": CHECKERBOARD}
#: Training of a candidate in seconds, and samples that judge it.
BUDGETS = {"mnist": (100.0, 500), "checkerboard": (40.0, 10_000)}


def measured(recipe: str, changes: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one candidate."""
    try:
        pipeline = trained(recipe, options.runs, seed=0, progress=False, seconds=options.seconds, changes=changes)
        report = models.evaluate(pipeline, num_samples=options.num_samples, clock=time.process_time, progress=False)
    except DivergedError as error:
        return {"changes": changes, "diverged": str(error)}
    keys = ("frechet_distance", "sliced_w2", "precision", "recall", "coverage", "nfe", "num_samples", "sample_seconds")
    found = {key: report[key] for key in keys if key in report}
    return {"changes": changes, "steps": pipeline.provenance["steps"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=SEARCHES)
    parser.add_argument("--seconds", type=float, help="of training a candidate; by default BUDGETS'")
    parser.add_argument("--systems", nargs="+")
    parser.add_argument("--num-samples", type=int, help="that judge it; by default BUDGETS'")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    seconds, num_samples = BUDGETS[options.data]
    options.seconds, options.num_samples = options.seconds or seconds, options.num_samples or num_samples
    torch.set_num_threads(1)
    candidates = SEARCHES[options.data]
    output = options.output or Path(f"results/search-{options.data}.json")
    result: dict[str, Any] = read_report(output) if output.exists() else {"rows": {}}
    for system in options.systems or candidates:
        rows = result["rows"].setdefault(system, {})
        before = BEFORE.get(options.data, {}).get(system, {})
        for name, candidate in candidates[system].items():
            changes = whole(before, candidate)
            if name not in rows:
                rows[name] = measured(f"{system}-{options.data}", changes, options)
                rows[name]["commit"] = commit()
            distance = rows[name].get("frechet_distance", rows[name].get("sliced_w2", "diverged"))
            print(f"{system:20} {name:45} {distance}", flush=True)
            result |= {
                "command": f"python benchmarks/search.py {options.data} --seconds {options.seconds:g}",
                "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
                "seconds": options.seconds,
            }
            output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
