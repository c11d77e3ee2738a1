"""The vocabulary of reports: every figure's key, what it is, its unit, and whether less or more of it is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mmdflow._files import read_json

#: Ending of the keys of held-out data: the same figure, of real data that had no part in the training.
REFERENCE = "_reference"


class Figure(NamedTuple):
    """A figure of a report.

    Attributes:
        key: its name in a report; with `REFERENCE` after it the same figure of held-out data.
        meaning: how to read it, in a phrase.
        unit: what it is measured in.
        better: lower, higher, or a dash where neither is.
        definition: source and details, for the docs.
    """

    key: str
    meaning: str
    unit: str
    better: str
    definition: str


_FEATURES, _SHARE, _PIXELS = "features, squared", "share", "pixels in [-1, 1]"
FIGURES: tuple[Figure, ...] = (
    Figure(
        "frechet_distance",
        "lower is better; on the standard Inception's features it is the FID",
        _FEATURES,
        "lower",
        "Heusel et al. 2017, in float64, covariances with n - 1. It is never negative, and singular covariances do no harm. Too "
        "few samples for the features give a warning. Of a model against its training data it is the mean over disjoint subsets.",
    ),
    Figure(
        "frechet_distance_to_test",
        "the same distance to the whole held-out set",
        _FEATURES,
        "lower",
        "Of a model: the mean over disjoint subsets of the samples, of the held-out set's size.",
    ),
    Figure(
        "frechet_distance_random_split",
        "the same distance between random parts of all real data",
        _FEATURES,
        "-",
        "The mean of ten splits into as many as the subsets hold, and the rest. A held-out set that is balanced over classes "
        "lies closer than that.",
    ),
    Figure(
        "report_distance",
        "the Frechet distance in the features of the report judge, which had no part in choosing settings",
        _FEATURES,
        "lower",
        "Of a model: the mean over disjoint subsets of the samples, of the held-out set's size. The judge is a residual "
        "classifier; `mmdflow judges` says which. Only where the data have labels.",
    ),
    Figure(
        "random_distance",
        "the same in the features of an untrained network, standardised by the training images",
        "deviations, squared",
        "lower",
        "As report_distance, of any images. It knows no classes, so it sees blur, noise and contrast better than what is drawn.",
    ),
    Figure(
        "frechet_interval",
        "where 95 percent of draws of as many samples lie",
        _FEATURES,
        "-",
        "The bootstrap: 100 resampled sets, 20 of more than 256 features. Resampling adds the bias of a finite set a second "
        "time, so the quantiles are moved to have their mean at the estimate. The ends are not below 0.",
    ),
    Figure(
        "frechet_at_infinity",
        "extrapolated to infinitely many samples",
        _FEATURES,
        "lower",
        "Chong and Forsyth 2020: a line through the distances of 15 subsets against 1/n, read off at 0. Needs four samples a "
        "feature. Being unbiased, it may be negative.",
    ),
    Figure(
        "kernel_distance",
        "lower is better, 0 in the mean for equal distributions",
        "kernel of features",
        "lower",
        "KID (Binkowski et al. 2018): unbiased MMD^2 of (x.y / K + 1)^3. Mean and standard deviation (with n, as torchmetrics "
        "has it) over 100 pairs of subsets of at most 1000, 10 of a model against its training data. There is no deviation where "
        "the subsets are both whole sets.",
    ),
    Figure(
        "inception_score",
        "higher is better",
        "classes",
        "higher",
        "Salimans et al. 2016, mean and standard deviation (with n; torchmetrics has n - 1) over 10 splits of shuffled samples. "
        "Only where the features have classes.",
    ),
    Figure(
        "precision",
        "share of the samples near the reference",
        _SHARE,
        "higher",
        "Kynkaanniemi et al. 2019, k = 5, against as many images, at most 10 000 (2000 of a model against its training data). An "
        "outlier's ball is large, so noise can have a high precision: read it beside coverage.",
    ),
    Figure("recall", "share of the reference near the samples", _SHARE, "higher", "As precision."),
    Figure(
        "density",
        "how deep the samples lie in the reference; about 1 for its own draws",
        "balls over k",
        "-",
        "Naeem et al. 2020, k = 5.",
    ),
    Figure("coverage", "share of the reference with a sample near it", _SHARE, "higher", "Naeem et al. 2020, k = 5."),
    Figure(
        "sliced_w2",
        "of pixels; lower is better",
        "entries of the data",
        "lower",
        "Sliced Wasserstein distance of order 2 over 500 random directions, of the entries themselves.",
    ),
    Figure(
        "energy_distance",
        "of features; lower is better, 0 in the mean for equal distributions",
        "features",
        "lower",
        "Szekely and Rizzo 2004: 2 E d(x, y) - E d(x, x') - E d(y, y') with the Euclidean distance d, over pairs of different "
        "points. It is MMD^2 with the kernel -d, unbiased, so it may be negative. At most 10 000 of each. Of a model against its "
        "training data it is of the entries, at most 2000 of each.",
    ),
    Figure(
        "energy_p_value",
        "of the two-sample test; uniform in [0, 1] for equal distributions",
        "probability",
        "-",
        "The permutation test of the energy distance (Gretton et al. 2012), at most 2000 of each, 500 permutations: 0.002 at "
        "least. Particles that flow together repel each other, so they are not quite independent.",
    ),
    Figure(
        "mmd2",
        "lower is better, 0 in the mean for equal distributions",
        "kernel of entries",
        "lower",
        "Unbiased MMD^2 of the entries against held-out data, Gaussian kernel with the median bandwidth.",
    ),
    Figure(
        "mmd_p_value",
        "of the two-sample test with this kernel; uniform in [0, 1] for equal distributions",
        "probability",
        "-",
        "As energy_p_value, with the kernel of mmd2.",
    ),
    Figure(
        "nearest_distance",
        "median distance of samples to the nearest training image",
        _PIXELS,
        "-",
        "Euclidean, of at most 1000 samples (2000 of a model against its training data). 0 is a copy.",
    ),
    Figure(
        "copying_z",
        "standard normal where nothing is copied, far below 0 for copies",
        "deviations",
        "-",
        "Z_U of Meehan, Chaudhuri and Dasgupta 2020 (their C_T with a single cell): the Mann-Whitney statistic of the nearest "
        "distances, samples against held-out images. Far above 0 where samples lie off the data.",
    ),
    Figure(
        "close_share",
        "share of samples closer than 95 percent of the held-out images; 0.05 where nothing is copied",
        _SHARE,
        "-",
        "A generator that copies at times and misses the data otherwise shows here, and not in copying_z.",
    ),
    Figure(
        "class_confidence",
        "mean probability of the classifier's first choice",
        "probability",
        "-",
        "Only where the features have classes. Compare it with that of held-out data.",
    ),
    Figure(
        "class_histogram",
        "share of the samples in each class, by the classifier",
        _SHARE,
        "-",
        "Only where the features have classes.",
    ),
)
MEANINGS: dict[str, str] = {figure.key: figure.meaning for figure in FIGURES}

#: Keys of reports that were written before the vocabulary was one, and what they are now.
_OLD_KEYS = {
    "classifier": "features",
    "classifier_fd": "frechet_distance",
    "classifier_fd_reference": "frechet_distance_reference",
    "classifier_fd_random_split": "frechet_distance_random_split",
    "classifier_fd_to_test": "frechet_distance_to_test",
    "classifier_confidence": "class_confidence",
    "classifier_confidence_reference": "class_confidence_reference",
    "nearest_train_distance": "nearest_distance",
    "nearest_train_distance_reference": "nearest_distance_reference",
    "nearest_distance_held_out": "nearest_distance_reference",
    "how": "sampler_settings",
}


def renamed(report: Any) -> Any:
    """Return a report read from a file with its keys as they are now; reports within reports too.

    Example:
        >>> renamed({"rows": [{"classifier_fd": 4.3}]})
        {'rows': [{'frechet_distance': 4.3}]}
    """
    if isinstance(report, dict):
        report = {_OLD_KEYS.get(key, key): renamed(value) for key, value in report.items()}
        if isinstance(report.get("distance"), str):  # of a comparison: the key of the figure that it ranks by
            report["distance"] = _OLD_KEYS.get(report["distance"], report["distance"])
        return report
    return [renamed(value) for value in report] if isinstance(report, list) else report


def read_report(path: str | Path) -> Any:
    """Return the report in a JSON file, whenever it was written, with its keys as they are now."""
    return renamed(read_json(Path(path)))


def text(value: object) -> str:
    """Return a figure of a report in words: a score with its deviation, an interval, a number.

    Example:
        >>> text({"mean": 1.5, "std": 0.25}), text([0.5, 2.0]), text(1 / 3)
        ('1.5 ± 0.25', '0.5 to 2', '0.33333')
    """
    if isinstance(value, dict):
        return " ± ".join(text(v) for v in value.values())
    if isinstance(value, list):
        return " to ".join(text(v) for v in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def table() -> str:
    """Return the vocabulary as a Markdown table, as docs/evaluation.md has it."""
    rows = ["| key | what it is | unit | better |", "|---|---|---|---|"]
    for figure in FIGURES:
        meaning = figure.meaning[0].upper() + figure.meaning[1:]
        rows.append(f"| `{figure.key}` | {meaning}. {figure.definition} | {figure.unit} | {figure.better} |")
    return "\n".join(rows)
