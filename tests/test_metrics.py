import dataclasses

import numpy as np
import pytest
import torch

from mmdflow import InputError
from mmdflow._tensors import eight_bits
from mmdflow.data import load
from mmdflow.evaluation.samples import evaluate_samples
from mmdflow.metrics import (
    ManifoldScores,
    frechet_distance,
    manifold_scores,
    mmd_test,
    nearest_distances,
    sliced_w2,
    train_classifier,
)
from mmdflow.metrics.classifier import ConvolutionalClassifier


def normal(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_of_gaussians_in_closed_form():
    """Commuting covariances: |dmu|^2 + sum (s_a - s_b)^2; the samples are whitened so that their moments are exact."""
    x = normal(500, 4)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    a, b = torch.tensor([1.0, 2.0, 0.0, 3.0]).double(), torch.tensor([2.0, 2.0, 1.0, 0.5]).double()
    assert frechet_distance(x * a, x * b + 1) == pytest.approx(4 + ((a - b) ** 2).sum().item(), rel=1e-9)


def test_frechet_distance_equals_scipy():
    scipy = pytest.importorskip("scipy.linalg")
    a, b = normal(200, 5) @ normal(5, 5, 1), normal(150, 5, 2) @ normal(5, 5, 3) + 1
    ca, cb = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = scipy.sqrtm(ca @ cb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_laws():
    a, b = normal(50, 8), normal(60, 8, 1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a[torch.randperm(50)], b) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert frechet_distance(normal(5, 20), normal(6, 20, 1)) > 0  # fewer samples than features


def test_sliced_w2_in_one_dimension():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    # quantiles: x = 0 on [0, 1/2), 1 on [1/2, 1); y = 0, 1, 2 on thirds
    assert sliced_w2(x, y) == pytest.approx(((1 / 2 - 1 / 3) * 1 + (1 - 2 / 3) * 1) ** 0.5)
    assert sliced_w2(x, x) == 0
    assert sliced_w2(x, x + 3) == pytest.approx(3)


def test_sliced_w2_of_a_shift():
    x = normal(300, 5)
    shift = torch.tensor([1.0, 2.0, 0.0, -1.0, 0.5]).double()
    # E <xi, shift>^2 = |shift|^2 / d
    assert sliced_w2(x, x + shift, num_directions=20_000) == pytest.approx(
        (shift.square().sum() / 5).sqrt().item(), rel=0.02
    )


def test_mmd_test_keeps_its_level_and_has_power():
    p_values = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        x, y = normal(30, 2, 2 * seed), normal(25, 2, 2 * seed + 1)
        p_values.append(mmd_test(x, y, num_permutations=99, generator=generator)[1])
    rejected = sum(p <= 0.05 for p in p_values)
    assert rejected <= 12  # binomial(100, 0.05): more happens once in 500
    assert 0.4 < sum(p_values) / 100 < 0.62
    assert mmd_test(normal(50, 2), normal(50, 2, 1) + 1, num_permutations=99)[1] == 0.01


def test_mmd_test_statistic_is_the_unbiased_estimate():
    from mmdflow import Gaussian
    from mmdflow.divergences.functional import mmd2

    x, y = normal(20, 3), normal(15, 3, 1)
    value, _ = mmd_test(x, y, Gaussian(1.3), num_permutations=1)
    assert value == pytest.approx(mmd2(x, y, Gaussian(1.3)).item(), rel=1e-10)


def test_copies_are_at_distance_zero():
    x = (normal(40, 100) + 50).float()
    assert (nearest_distances(x, x.flip(0)) == 0).all()


def test_nearest_distances_in_blocks():
    x, y = normal(50, 3), normal(40, 3, 1)
    expected = torch.cdist(x, y).min(1).values
    torch.testing.assert_close(nearest_distances(x, y, block=7), expected)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def classifier(digits):
    return train_classifier(digits.train, digits.train_labels, digits.test, digits.test_labels, num_steps=150)


def test_classifier_learns_is_cached_and_repeats(digits, classifier, monkeypatch, tmp_path, caplog):
    assert classifier.accuracy > 0.85
    arguments = (digits.train, digits.train_labels, digits.test, digits.test_labels)
    state = torch.random.get_rng_state()
    cached = train_classifier(*arguments, num_steps=150)
    assert cached.name == classifier.name
    monkeypatch.setenv("MMDFLOW_CACHE", str(tmp_path))
    with caplog.at_level("WARNING"):
        fresh = train_classifier(*arguments, num_steps=150)
    assert "a ConvolutionalClassifier of these 1438 images is trained, 150 steps" in caplog.text
    assert torch.equal(torch.random.get_rng_state(), state)
    for other in (cached, fresh):
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), classifier.parameters(), strict=True))


def test_classifier_does_not_depend_on_threads(digits, monkeypatch, tmp_path):
    arguments = (digits.train[:256], digits.train_labels[:256], digits.test, digits.test_labels)
    names = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        names.append(train_classifier(*arguments, num_steps=5, cache=False).name)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    assert names[0] == names[1]


def test_damaged_cache_is_rebuilt_and_said(digits, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("MMDFLOW_CACHE", str(tmp_path))
    arguments = (digits.train[:64], digits.train_labels[:64], digits.test, digits.test_labels)
    first = train_classifier(*arguments, num_steps=5)
    (file,) = (tmp_path / "classifiers").glob(f"v{ConvolutionalClassifier.version}-*")
    file.write_bytes(b"junk")
    again = train_classifier(*arguments, num_steps=5)
    assert "is damaged" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def brute_force(x, y, k):
    """Naeem et al. 2020, equations 1 to 5, as they are written."""
    to_y, of_x, of_y = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    radii_x, radii_y = (d.sort(1).values[:, k] for d in (of_x, of_y))
    n, m = len(x), len(y)
    precision = sum(any(to_y[i, j] <= radii_y[j] for j in range(m)) for i in range(n)) / n
    recall = sum(any(to_y[i, j] <= radii_x[i] for i in range(n)) for j in range(m)) / m
    density = sum(float(to_y[i, j] <= radii_y[j]) for i in range(n) for j in range(m)) / (k * n)
    coverage = sum(any(to_y[i, j] <= radii_y[j] for i in range(n)) for j in range(m)) / m
    return precision, recall, density, coverage


@pytest.mark.parametrize(("n", "m", "k", "block"), [(23, 31, 3, 7), (31, 23, 5, 100), (7, 6, 1, 1)])
def test_manifold_scores_are_the_papers(n, m, k, block):
    x, y = normal(n, 4, 0).double(), (normal(m, 4, 1) + 0.5).double()
    scores = manifold_scores(x, y, neighbours=k, block=block)
    assert dataclasses.astuple(scores) == pytest.approx(brute_force(x, y, k), abs=1e-12)


def test_manifold_scores_know_what_is_missing():
    y = torch.cat([normal(400, 2, 0), normal(400, 2, 1) + 20])
    one_mode, wide = normal(800, 2, 2), 10 * normal(800, 2, 3)
    assert manifold_scores(y, y) == ManifoldScores(1.0, 1.0, manifold_scores(y, y).density, 1.0)
    assert manifold_scores(y, y).density == pytest.approx(1 + 1 / 5)  # each ball holds its own point besides
    found = manifold_scores(one_mode, y)
    assert found.precision > 0.95
    assert found.recall < 0.55
    assert found.coverage < 0.55
    assert manifold_scores(wide, y).precision < 0.3
    same = [manifold_scores(normal(1000, 2, 10 + i), normal(1000, 2, 20 + i)).coverage for i in range(5)]
    assert sum(same) / 5 == pytest.approx(1 - 2**-5, abs=0.01)


def test_report_tells_real_from_noise(digits, classifier):
    order = torch.randperm(1438, generator=torch.Generator().manual_seed(1))
    real = evaluate_samples(digits.train[order[:718]], digits.train, digits.test, extractor=classifier)
    noise = torch.rand(718, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    bad = evaluate_samples(noise, digits.train, digits.test, extractor=classifier)
    assert real["subset_size"] == 359
    assert real["mmd_p_value"] > 0.01
    assert bad["mmd_p_value"] < 0.01
    assert bad["frechet_distance"] > 20 * real["frechet_distance"]
    assert real["frechet_distance"] < 4 * real["frechet_distance_reference"] + 1
    assert (
        real["frechet_distance_reference"] / 2
        < real["frechet_distance_random_split"]
        < 10 * real["frechet_distance_reference"]
    )
    held_out = frechet_distance(*(classifier.features(eight_bits(x)) for x in (digits.train[order[:359]], digits.test)))
    assert abs(real["frechet_distance_to_test"] / held_out - 1) < 0.5
    assert bad["frechet_distance_to_test"] > 20 * real["frechet_distance_to_test"]
    assert (
        evaluate_samples(digits.test, digits.train, digits.test, extractor=classifier)["frechet_distance_to_test"]
        < 1e-3
    )
    assert real["nearest_distance"] == 0
    for name in ("precision", "recall", "density", "coverage"):
        assert abs(real[name] - real[f"{name}_reference"]) < 0.15
    assert max(bad["recall"], bad["coverage"]) < 0.2 < 0.8 < min(real["recall"], real["coverage"])
    assert bad["sliced_w2"] > 3 * real["sliced_w2"]
    assert sum(real["class_histogram"]) == pytest.approx(1, abs=1e-4)


def test_report_without_classifier():
    x = normal(30, 2)
    report = evaluate_samples(x, normal(50, 2, 1), normal(30, 2, 2))
    assert 0 < report["recall"] <= 1
    assert "coverage" not in evaluate_samples(x[:4], normal(50, 2, 1), normal(30, 2, 2))
    assert "frechet_distance" not in report
    assert report["sliced_w2"] > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3)), r"features_a has shape \[1, 3\]"),
        (lambda: frechet_distance(torch.zeros(4, 3), torch.zeros(5, 2)), "features_b has 2 columns: must have 3"),
        (lambda: frechet_distance(torch.zeros(4, 3), torch.full((5, 3), float("nan"))), "features_b holds 15 NaN"),
        (lambda: sliced_w2(torch.zeros(4, 3), torch.zeros(5, 2)), "x has event shape"),
        (lambda: mmd_test(torch.zeros(1, 3), torch.zeros(5, 3)), "each needs at least 2"),
        (lambda: evaluate_samples(torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(4, 2)), "samples has event shape"),
        (
            lambda: manifold_scores(torch.zeros(5, 3), torch.zeros(9, 3)),
            "features has 5 points: needs more than neighbours = 5",
        ),
        (lambda: manifold_scores(torch.zeros(9, 3), torch.zeros(9, 2)), "features has event shape"),
    ],
)
def test_bad_input(call, message, unchecked):
    with pytest.raises(InputError, match=message):
        call()
