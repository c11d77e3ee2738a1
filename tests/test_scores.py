"""Scores of features and distances: against torchmetrics' and scipy's formulas, closed forms, and invariances."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from mmdflow import InputError, Riesz
from mmdflow.divergences.functional import mmd2
from mmdflow.metrics import (
    Moments,
    frechet_at_infinity,
    frechet_distance,
    frechet_interval,
    inception_score,
    kernel_distance,
    memorisation,
    mmd_test,
    nearest_distances,
)


def normal(n, d, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def skewed(n, d, seed):
    """Features as networks give them: non-negative, correlated, far from the origin."""
    mix = normal(d, d, 99) / d**0.5
    return (normal(n, d, seed) @ mix).relu() + 5


def test_moments_do_not_depend_on_order_batches_or_ranks():
    x = skewed(1003, 12, 0)
    whole = Moments.of(x)
    shuffled = x[torch.randperm(1003, generator=torch.Generator().manual_seed(1))]
    ranks = [Moments.of_batches(part.split(17)) for part in shuffled.tensor_split(3)]
    for found in (
        Moments.of_batches(x.split(1)),
        Moments.of_batches(x.split(100)),
        Moments.of_batches(shuffled.split(64)),
        ranks[2].merged(ranks[0]).merged(ranks[1]),
    ):
        assert found.count == 1003
        torch.testing.assert_close(found.mean, whole.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.covariance, whole.covariance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whole.covariance, torch.cov(x.double().T), rtol=1e-12, atol=1e-12)


def test_moments_of_features_taken_several_times(generator, unchecked):
    x = torch.randn(60, 3, dtype=torch.float64, generator=generator)
    times = torch.randint(4, (60,), generator=generator)
    several, repeated = Moments.of(x, times), Moments.of(x.repeat_interleave(times, 0))
    assert several.count == repeated.count
    torch.testing.assert_close(several.mean, repeated.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(several.scatter, repeated.scatter, rtol=1e-12, atol=1e-12)
    for bad in (times[1:], torch.zeros(60, dtype=torch.long), times - 4):
        with pytest.raises(InputError, match="times has shape"):
            Moments.of(x, bad)


def test_frechet_distance_is_the_same_however_features_come():
    x, y = skewed(700, 10, 0), skewed(900, 10, 1) * 1.1
    whole = frechet_distance(x, y)
    against = Moments.of_batches(y.split(31))
    assert frechet_distance(x, against) == pytest.approx(whole, rel=1e-9)
    assert frechet_distance(Moments.of_batches(x.flip(0).split(7)), against) == pytest.approx(whole, rel=1e-9)


def test_frechet_distance_is_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = skewed(400, 16, 0), skewed(500, 16, 1) * 1.05
    a, b = (Moments.of(z) for z in (x, y))
    theirs = float(fid._compute_fid(a.mean, a.covariance, b.mean, b.covariance))
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-6)
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    plain = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace() - 2 * np.trace(root)
    assert frechet_distance(x, y) == pytest.approx(float(plain), rel=1e-6)


@pytest.mark.parametrize("count", [9, 40, 300])
def test_frechet_distance_of_equal_features_is_not_negative(count):
    """Fewer samples than features, too: what the traces leave is a sum of squares."""
    for scale in (1e-3, 1.0, 1e3):
        x = scale * skewed(count, 24, 3)
        same = frechet_distance(x, x[torch.randperm(count, generator=torch.Generator().manual_seed(0))])
        assert 0 <= same < 1e-12 * float(x.double().square().sum(1).mean())
        near = frechet_distance(x, 1.01 * x)
        root_mean_square = Moments.of(x).covariance.trace() + Moments.of(x).mean.square().sum()
        assert near == pytest.approx(1e-4 * float(root_mean_square), rel=1e-4)


def test_an_interval_of_a_distance_does_not_reach_below_zero():
    x = skewed(60, 8, 0)
    low, high = frechet_interval(x, x, repeats=20, generator=torch.Generator().manual_seed(0))
    assert 0 <= low <= high


def test_a_spread_is_given_where_there_is_one():
    x, y = skewed(60, 8, 0), skewed(60, 8, 1)
    whole, parts = (kernel_distance(x, y, num_subsets=5, subset_size=size) for size in (60, 30))
    assert (whole.std, whole.plain) == (0, {"mean": whole.mean})
    assert parts.plain == {"mean": parts.mean, "std": parts.std}
    assert kernel_distance(x, skewed(90, 8, 1), num_subsets=5, subset_size=60).std > 0  # of the reference's subsets
    assert "std" not in inception_score(torch.eye(4), splits=1).plain


def test_inception_score_in_closed_form_and_as_torchmetrics():
    assert inception_score(torch.full((50, 10), 0.1)).mean == pytest.approx(1, rel=1e-6)
    assert inception_score(torch.eye(10).repeat(7, 1), splits=7).mean == pytest.approx(10)
    assert inception_score(torch.eye(4)[[0, 0, 1, 1]], splits=1).mean == pytest.approx(2)
    module = pytest.importorskip("torchmetrics.image.inception")
    logits = 3 * normal(500, 10)
    theirs = module.InceptionScore(feature=torch.nn.Identity(), splits=10)
    theirs.features, theirs._update_count = [logits], 1
    torch.manual_seed(0)
    mean, _ = theirs.compute()
    torch.manual_seed(0)
    order = torch.randperm(500)
    assert inception_score(logits[order].softmax(1), splits=10).mean == pytest.approx(float(mean), rel=1e-5)


def test_kernel_distance_is_torchmetrics():
    module = pytest.importorskip("torchmetrics.image.kid")
    x, y = skewed(60, 8, 0), skewed(60, 8, 1) + 0.1
    ours = kernel_distance(x, y, num_subsets=1, subset_size=60)
    assert ours.mean == pytest.approx(float(module.poly_mmd(x.double(), y.double())), rel=1e-6)
    assert ours.std == 0


def test_kernel_distance_is_unbiased():
    """200 draws of equal distributions: their mean is 0 within three standard errors, and half of them are negative."""
    values = torch.tensor(
        [
            kernel_distance(normal(40, 6, 2 * i), normal(40, 6, 2 * i + 1), num_subsets=1, subset_size=40).mean
            for i in range(200)
        ]
    )
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(200)
    assert 60 < int((values < 0).sum()) < 140
    apart = kernel_distance(normal(40, 6), normal(40, 6, 1, 1.0), num_subsets=5, subset_size=30)
    assert apart.mean > 10 * float(values.std())


def test_interval_covers_the_distance_and_narrows():
    """What it shall cover is the mean distance of as many samples: of two Gaussians a unit apart in each entry."""
    reference = Moments(10**6, torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64) * (10**6 - 1))
    expected = sum(frechet_distance(normal(300, 3, 1000 + seed, 1.0), reference) for seed in range(300)) / 300
    assert expected == pytest.approx(3, abs=0.1)
    hits, widths = 0, []
    for seed in range(40):
        x = normal(300, 3, seed, 1.0)
        low, high = frechet_interval(x, reference, repeats=60, generator=torch.Generator().manual_seed(seed))
        hits += low <= expected <= high
        widths.append(high - low)
    assert hits >= 34
    few = normal(75, 3, 0, 1.0)
    low, high = frechet_interval(few, reference, repeats=60, generator=torch.Generator().manual_seed(0))
    assert high - low > 1.4 * sum(widths) / len(widths)


def test_distance_at_infinity_takes_the_bias_off():
    """Samples of the reference itself: the distance is 0, what finite samples show is bias."""
    reference = Moments(10**6, torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64) * (10**6 - 1))
    biased, found = [], []
    for seed in range(10):
        x = normal(400, 8, seed)
        biased.append(frechet_distance(x, reference))
        found.append(frechet_at_infinity(x, reference, generator=torch.Generator().manual_seed(seed)))
    assert sum(biased) / 10 > 0.05
    assert abs(sum(found)) < 0.25 * sum(biased)


@pytest.mark.parametrize("ties", [False, True])
def test_copying_z_is_the_mann_whitney_statistic(ties):
    own, held_out = normal(60, 1)[:, 0].abs(), normal(80, 1, 1)[:, 0].abs() * 1.3
    if ties:
        own, held_out = (5 * own).round(), (5 * held_out).round()
    p = scipy.stats.mannwhitneyu(own, held_out, alternative="less", use_continuity=False, method="asymptotic").pvalue
    assert memorisation(own, held_out).copying_z == pytest.approx(scipy.stats.norm.ppf(p), rel=1e-5)
    assert memorisation(held_out, own).copying_z == pytest.approx(-scipy.stats.norm.ppf(p), rel=1e-5)


def test_copying_z_is_standard_normal_for_fresh_draws_and_tells_copies_from_misses():
    found = []
    for seed in range(60):
        train, fresh, held_out = (normal(n, 3, 3 * seed + i) for i, n in enumerate((200, 100, 150)))
        found.append(memorisation(nearest_distances(fresh, train), nearest_distances(held_out, train)))
    z = torch.tensor([scores.copying_z for scores in found])
    assert abs(float(z.mean())) < 3 / math.sqrt(60)
    assert 0.75 < float(z.std()) < 1.3
    assert sum(scores.close_share for scores in found) / 60 == pytest.approx(0.05, abs=0.02)
    of_held_out = nearest_distances(held_out, train)
    copies, misses = train[:50] + 0.01 * normal(50, 3), normal(50, 3) + 9
    copied, missed, both = (
        memorisation(nearest_distances(x, train), of_held_out) for x in (copies, misses, torch.cat([copies, misses]))
    )
    assert copied.copying_z < -8
    assert missed.copying_z > 8
    assert abs(both.copying_z) < 2  # which half of the samples hides the other
    assert (copied.close_share, missed.close_share, both.close_share) == (1, 0, 0.5)
    assert memorisation(torch.zeros(3), torch.zeros(4)).copying_z == 0


def test_energy_distance_is_unbiased_and_its_test_calibrated():
    values, p_values = [], []
    for seed in range(60):
        x, y = normal(30, 3, 2 * seed), normal(40, 3, 2 * seed + 1)
        value, p = mmd_test(x, y, Riesz(), num_permutations=99, generator=torch.Generator().manual_seed(seed))
        within = sum(torch.nn.functional.pdist(z).mean() for z in (x, y))
        assert value == pytest.approx(float(2 * torch.cdist(x, y).mean() - within), abs=1e-5)
        assert value == pytest.approx(float(mmd2(x, y, Riesz())), abs=1e-5)
        values.append(value)
        p_values.append(p)
    assert abs(sum(values) / 60) < 3 * float(torch.tensor(values).std()) / math.sqrt(60)
    assert scipy.stats.kstest(p_values, "uniform").statistic < 1.63 / math.sqrt(60)
    assert mmd_test(x, y + 1, Riesz(), num_permutations=199)[1] == 1 / 200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Moments.of(torch.zeros(3)), "must be [n, K]"),
        (lambda: Moments.of(torch.full((3, 2), torch.nan)), "features"),
        (lambda: Moments.of_batches([]), "batches is empty"),
        (lambda: Moments.of(normal(4, 2)).merged(Moments.of(normal(4, 3))), "moments of 3 features: must have 2"),
        (lambda: frechet_distance(normal(1, 2), normal(4, 2)), "n >= 2"),
        (lambda: frechet_distance(normal(4, 2), Moments.of(normal(1, 2))), "of 1 sample: must be of at least 2"),
        (lambda: inception_score(torch.ones(10, 3)), "whose sum is 3: must be 1"),
        (lambda: inception_score(torch.full((4, 2), 0.5), splits=10), "splits = 10: must be at most"),
        (lambda: inception_score(-torch.ones(10, 3)), "none negative"),
        (lambda: kernel_distance(normal(9, 2), normal(9, 3)), "features has event shape"),
        (lambda: kernel_distance(normal(9, 2), normal(9, 2)), "subset_size = 1000: must be at most"),
        (lambda: frechet_at_infinity(normal(7, 2), normal(9, 2)), "must have at least 8 to extrapolate"),
        (lambda: memorisation(normal(4, 2), torch.ones(3)), "distances has event shape [2]: must be []"),
        (lambda: memorisation(torch.ones(4), torch.full((3,), torch.nan)), "held_out holds 3 NaN"),
        (lambda: frechet_interval(normal(9, 2), normal(9, 2), level=1.0), "level = 1.0"),
    ],
)
def test_bad_input(call, message, unchecked):
    with pytest.raises(InputError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
