"""What no sample can be told apart below: Frechet distances between random parts of all real data, by every judge.

python benchmarks/random_splits.py [NAME ...] [--size 359] [--splits 20] [--output results/random-splits.json]
"""

import statistics

import torch
from measure import models_parser, read_models, write_models

from mmdflow import data
from mmdflow.evaluation.distance import open_judge
from mmdflow.evaluation.samples import random_splits

JUDGES = {"frechet_distance": "own", "report_distance": "report", "random_distance": "random"}


def distances(name: str, judge: str, size: int, splits: int) -> dict:
    extractor = open_judge(name, judge).extractor
    dataset = data.load(name)
    features = extractor.features(torch.cat([dataset.train, dataset.test]))
    found = random_splits(features, size, torch.Generator().manual_seed(0), splits)
    return {"judge": extractor.name, "mean": statistics.fmean(found), "least": min(found), "most": max(found)}


def main() -> None:
    parser = models_parser(__doc__, ["digits"], "results/random-splits.json")
    parser.add_argument("--size", type=int, default=359)
    parser.add_argument("--splits", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        found = {key: distances(name, judge, options.size, options.splits) for key, judge in JUDGES.items()}
        rows = {"size": options.size, "splits": options.splits, "distances": found}
        write_models(options.output, __file__, {**read_models(options.output), name: rows})
        print(name, {key: round(value["mean"], 2) for key, value in found.items()})


if __name__ == "__main__":
    main()
