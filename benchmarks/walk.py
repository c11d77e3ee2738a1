"""How closely the shipped flow-matching models' walk must be followed: Frechet distance by levels and integrator.

python benchmarks/walk.py [NAME ...] [--levels 6 12 25 50 100] [--num_samples 1000] [--output results/walk.json]

Every cell starts from the same particles; one thread. Names that are not asked for keep the cells that the report had.
"""

import time

import torch
from measure import models_parser, read_models, write_models

from mmdflow.evaluation.distance import open_judge
from mmdflow.evaluation.models import draw_samples
from mmdflow.methods import load_pipeline

INTEGRATORS = ("euler", "adams_bashforth")


def cells(name: str, levels: list[int], num_samples: int) -> dict:
    pipeline, judge = load_pipeline(f"{name}-flow-matching"), open_judge(name)
    found = []
    for integrator in INTEGRATORS:
        for num_levels in levels:
            start = time.process_time()
            how = {"sampler": integrator, "num_levels": num_levels}
            samples, nfe = draw_samples(pipeline, num_samples, min(250, num_samples), 0, **how)
            seconds = time.process_time() - start
            found.append(
                {
                    "integrator": integrator,
                    "num_levels": num_levels,
                    "nfe": nfe,
                    "frechet_distance": judge(samples),
                    "sample_seconds": round(seconds, 1),
                }
            )
            print(f"{name:<8} {integrator:<16} NFE {nfe:4d}  FD {found[-1]['frechet_distance']:.2f}", flush=True)
    return {
        "num_samples": num_samples,
        "train_seconds": pipeline.provenance["train_seconds"],
        "held_out": judge.held_out(num_samples),
        "judge": judge.name,
        "cells": found,
    }


def main() -> None:
    parser = models_parser(__doc__, ["mnist", "fashion"], "results/walk.json")
    parser.add_argument("--levels", type=int, nargs="+", default=[6, 12, 25, 50, 100])
    parser.add_argument("--num_samples", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        found = cells(name, options.levels, options.num_samples)
        write_models(options.output, __file__, {**read_models(options.output), name: found})


if __name__ == "__main__":
    main()
