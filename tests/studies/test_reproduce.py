"""Slow reproductions, run by `make reproduce`: what the documentation claims, from scratch."""

import json

import pytest

from mmdflow.cli import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_reach_what_the_documentation_says(tmp_path, seed):
    """docs/lab/digits.md: no farther from the training set than independent real draws, every class between 4 and 18 percent."""
    folder = tmp_path / "run"
    assert main(["train", "dmmd-digits", f"--output={folder}", f"--training.seed={seed}"]) == 0
    reports = {}
    for sampler in ("exact", "approximate"):
        output = tmp_path / f"{sampler}.json"
        assert main(["evaluate", str(folder), f"--sampler={sampler}", "-o", str(output)]) == 0
        reports[sampler] = report = json.loads(output.read_text())
        assert min(report["class_histogram"]) >= 0.04
        assert max(report["class_histogram"]) <= 0.18
    exact, approximate = reports["exact"], reports["approximate"]
    assert exact["frechet_distance"] <= exact["frechet_distance_random_split"]
    assert approximate["frechet_distance"] <= 1.2 * exact["frechet_distance"]
    if seed == 0:  # what `make demo` trains
        assert exact["frechet_distance"] <= 2 * exact["frechet_distance_reference"] + 4
