"""Every way to sample the shipped digits model, judged by the same classifier.

python benchmarks/samplers.py [--output results/samplers.json] [--seeds 3]

A row is `pipe(359, ...)` of every seed and the Frechet distances of these samples. Base kernels other than linear act on
the same features, which were trained for the linear one, towards all 1438 training digits.
"""

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mmdflow import DMMDPipeline, Gaussian, NoiseConditionalKernel
from mmdflow._files import commit
from mmdflow.data import DataSet, load
from mmdflow.evaluation.samples import evaluate_samples
from mmdflow.methods.dmmd import NAMES, TargetSamples, target_means
from mmdflow.metrics import Classifier, train_classifier

N = 359


def rows(data: DataSet) -> dict[str, dict]:
    """Return the settings of a run by name of the row."""
    found: dict[str, dict] = {name: {"sampler": name} for name in NAMES}
    for sampler in ("exact", "approximate"):
        variants = {
            "": {},
            ", 25 levels": {"num_levels": 25},
            ", 25 levels, Heun": {"num_levels": 25, "integrator": "heun"},
            ", momentum 0.5": {"momentum": 0.5},
            **{f", whitening {lam:g}": {"whitening": lam} for lam in (1.0, 10.0, 100.0)},
            **{f", classes, guidance {g:g}": {"labels": asked(), "guidance": g} for g in (0.0, 3.0, 10.0, 30.0)},
            **{
                f", blurred digits refined from t = {t:g}": {
                    "t_max": t,
                    "noise_source": True,
                    "particles": blurred(data.test[:N]),
                }
                for t in (0.3, 0.5, 0.7)
            },
            ", lower half inpainted": {"known": data.test, "mask": upper_half()},
        }
        found |= {sampler + name: {"sampler": sampler, **settings} for name, settings in variants.items()}
    return found


def asked() -> Tensor:
    return torch.arange(N) % 10


def blurred(images: Tensor) -> Tensor:
    return avg_pool2d(images, 3, 1, 1)


def upper_half() -> Tensor:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    return mask


def judge(samples: Tensor, data: DataSet, classifier: Classifier) -> float:
    return evaluate_samples(samples, data.train, data.test, extractor=classifier, seed=0)["frechet_distance"]


def conditional(pipe: DMMDPipeline, data: DataSet, **settings: bool) -> DMMDPipeline:
    """Return the pipeline with target means of classes."""
    means = target_means(
        pipe.kernel,
        pipe.schedule,
        data.train.split(1024),
        pipe.target.levels,
        noise_repeats=4,
        labels=data.train_labels,
        generator=torch.Generator().manual_seed(0),
        **settings,
    )
    return replace(pipe, target=means)


def share_in_class(samples: Tensor, wanted: Tensor, classifier: Classifier) -> float:
    found = classifier.probabilities(classifier.features(samples)).argmax(1)
    return float((found == wanted).double().mean())


def measure(pipe: DMMDPipeline, settings: dict, data: DataSet, classifier: Classifier, seeds: int) -> dict:
    distances, shares, start = [], [], time.perf_counter()
    wanted = settings.get("labels", data.test_labels if "known" in settings else None)
    for seed in range(seeds):
        out = pipe(N, generator=torch.Generator().manual_seed(seed), **settings)
        if wanted is not None:
            shares.append(share_in_class(out.particles, wanted, classifier))
        distances.append(judge(out.particles, data, classifier))
    row = {"nfe": out.nfe, "frechet_distance": distances, "seconds": (time.perf_counter() - start) / seeds}
    return {**row, "share_in_class": shares} if shares else row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="results/samplers.json")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data, shipped = load("digits"), DMMDPipeline.from_pretrained("digits")
    classifier = train_classifier(data.train, data.train_labels, data.test, data.test_labels)
    pipe, table = conditional(shipped, data, covariances=True), {}

    def report(name: str, pipe: DMMDPipeline, settings: dict) -> None:
        table[name] = row = measure(pipe, settings, data, classifier, options.seeds)
        share = f"  share {statistics.mean(row['share_in_class']):.3f}" if "share_in_class" in row else ""
        print(f"{statistics.mean(row['frechet_distance']):8.1f} NFE {row['nfe']:3d}  {name}{share}", flush=True)

    for name, settings in rows(data).items():
        report(name, pipe, settings)
    for width in (5.0, 10.0, 30.0):  # width^2 times the Gaussian tends to the linear kernel's flow
        references = TargetSamples.draw(
            data.train, pipe.schedule, t_min=0.02, generator=torch.Generator().manual_seed(0)
        )
        kernel = NoiseConditionalKernel(pipe.features, width**2 * Gaussian(width))
        for sampler in ("exact", "approximate"):
            general = replace(pipe, kernel=kernel, target=references)
            report(f"{sampler}, Gaussian base of width {width:g}", general, {"sampler": sampler})
    means = pipe.target
    gap = (means.noisy - means.clean).norm(dim=1)
    apart = (means.class_noisy - means.class_clean - (means.noisy - means.clean)).norm(dim=2).mean(0)  # [T]
    result = {
        "command": "python benchmarks/samplers.py",
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "classifier": classifier.name,
        "held_out_fd": judge(data.test, data, classifier),
        "blurred_fd": judge(blurred(data.test[:N]), data, classifier),
        "class_part_of_the_mean_difference": {
            f"t = {float(t):.2f}": float(apart[i] / gap[i]) for i, t in list(enumerate(means.levels))[::25]
        },
        "rows": table,
    }
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
