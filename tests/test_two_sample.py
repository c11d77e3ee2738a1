import re

import pytest
import torch

from mmdflow import (
    MMD,
    Gaussian,
    InputError,
    Laplace,
    Matern,
    Polynomial,
    RationalQuadratic,
    Riesz,
    flow,
)
from mmdflow.metrics import StopWhenIndistinguishable, gaussian_scales, mmd_test, resampling, two_sample


class Shifted(Gaussian):
    """A formula of one's own, which depends on more than the distance."""

    def forward(self, x, y):
        return super().forward(x, y) * (1 + x.sum(1)[:, None] ** 2) * (1 + y.sum(1)[None] ** 2)


def normal(n, d=2, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ["permutation", "wild-bootstrap"])
@pytest.mark.parametrize("aggregated", [False, True])
def test_tests_keep_their_level(method, aggregated, generator):
    rejections = 0
    for _ in range(200):
        x, y = (torch.randn(30, 2, dtype=torch.float64, generator=generator) for _ in range(2))
        kernel = gaussian_scales(torch.cat([x, y])) if aggregated else Gaussian(1.0)
        rejections += mmd_test(x, y, kernel, method=method, num_permutations=39, generator=generator)[1] <= 0.1
    assert 8 <= rejections <= 34  # 20 expected; about 3 standard deviations each way


@pytest.mark.parametrize("method", ["permutation", "wild-bootstrap"])
def test_tests_have_power(method, generator):
    x, y = normal(60), normal(60, seed=1) + 1
    assert mmd_test(x, y, method=method, num_permutations=99, generator=generator)[1] == 0.01


def test_aggregation_sees_differences_of_every_scale(generator):
    """Fine stripes: a bandwidth of the median is blind to them, one of the aggregated ones is not."""
    x = 4 * torch.rand(400, 1, dtype=torch.float64, generator=generator)
    y = 4 * torch.rand(400, 1, dtype=torch.float64, generator=generator)
    y = (y / 0.4).floor() * 0.4 + (y % 0.4) / 3
    single = mmd_test(x, y, num_permutations=199, generator=generator)[1]
    kernels = gaussian_scales(x, (0.03, 0.1, 0.3, 1.0))
    several = mmd_test(x, y, kernels, num_permutations=199, generator=generator)[1]
    assert several < 0.05 < single


methods = pytest.mark.parametrize("method", ["permutation", "wild-bootstrap"])


@methods
def test_blocks_keep_the_level(method, generator):
    rejections = 0
    for _ in range(200):
        x, y = (torch.randn(30, 2, dtype=torch.float64, generator=generator) for _ in range(2))
        p_value = mmd_test(x, y, Gaussian(1.0), method=method, num_permutations=39, block_size=12, generator=generator)[
            1
        ]
        rejections += p_value <= 0.1
    assert 8 <= rejections <= 34  # 20 expected; about 3 standard deviations each way


@methods
def test_one_block_of_all_is_the_whole_test(method):
    x, y = normal(20), normal(20, seed=1)
    whole, block = (
        mmd_test(x, y, method=method, block_size=size, generator=torch.Generator().manual_seed(0))
        for size in (None, 40)
    )
    assert whole == block


def test_blocks_lose_as_much_power_as_is_said(generator):
    """The standard deviation of the statistic between samples that are alike, against that of the whole test."""
    values = {None: [], 20: []}
    for _ in range(150):
        x, y = (torch.randn(80, 2, dtype=torch.float64, generator=generator) for _ in range(2))
        for size, found in values.items():
            found.append(mmd_test(x, y, Gaussian(1.0), num_permutations=1, block_size=size, generator=generator)[0])
    whole, blocks = (torch.tensor(found).std().item() for found in values.values())
    assert blocks / whole == pytest.approx((160 / 20) ** 0.5, rel=0.3)


def test_blocks_test_samples_whose_gram_matrix_fits_nowhere(generator, monkeypatch):
    """Of different sizes, stored sorted, and aggregated."""
    monkeypatch.setattr(two_sample, "memory_left", lambda device: 2**20)
    x, y = normal(1500).sort(0).values, normal(900, seed=1).sort(0).values
    settings = {"num_permutations": 39, "block_size": 100, "generator": generator}
    assert mmd_test(x, y + 0.3, gaussian_scales(x, (0.5, 1.0)), **settings)[1] == 0.025
    assert mmd_test(x, y, gaussian_scales(x, (0.5, 1.0)), **settings)[1] > 0.025


@pytest.mark.parametrize("size", [3, 0, 2.5])
def test_bad_block_sizes(size, unchecked):
    with pytest.raises(InputError, match=f"block_size = {size}"):
        mmd_test(normal(9), normal(9, seed=1), block_size=size)


def test_one_kernel_in_a_list_is_that_kernel():
    x, y = normal(20), normal(25, seed=1)
    alone = mmd_test(x, y, Gaussian(1.0), generator=torch.Generator().manual_seed(0))
    listed = mmd_test(x, y, [Gaussian(1.0)], generator=torch.Generator().manual_seed(0))
    assert alone == listed


def test_wild_bootstrap_statistic():
    x, y = normal(7), normal(7, seed=1)
    k = Gaussian(1.3)
    value, _ = mmd_test(
        x, y, k, method="wild-bootstrap", num_permutations=1, generator=torch.Generator().manual_seed(3)
    )
    y = y[torch.randperm(7, generator=torch.Generator().manual_seed(3))]  # the pairs are random ones
    h = k(x, x) + k(y, y) - k(x, y) - k(y, x)
    assert value == pytest.approx(((h.sum() - h.diagonal().sum()) / 42).item())


def sorted_rows(n, generator):
    return torch.randn(n, 1, dtype=torch.float64, generator=generator).sort(0).values


def rows_by_class(n, generator):
    classes = torch.randint(4, (n,), generator=generator).sort().values
    return torch.randn(n, 2, dtype=torch.float64, generator=generator) + 5 * classes[:, None]


@pytest.mark.parametrize("method", ["permutation", "wild-bootstrap"])
@pytest.mark.parametrize(("draw", "n"), [(sorted_rows, 40), (rows_by_class, 100)])
def test_the_order_of_rows_does_not_matter_to_the_level(method, draw, n, generator):
    rejections = 0
    for _ in range(100):
        x, y = (draw(n, generator) for _ in range(2))
        rejections += mmd_test(x, y, method=method, num_permutations=39, generator=generator)[1] <= 0.1
    assert 1 <= rejections <= 20  # 10 expected, three standard deviations are 9


@pytest.mark.parametrize("method", ["permutation", "wild-bootstrap"])
def test_counts_with_many_ties_are_tested(method, generator):
    """Most rows are 0, so that the median distance is: the median of the positive distances is taken."""

    def counts(rate, n=60):
        return torch.poisson(torch.full((n, 3), rate, dtype=torch.float64), generator=generator)

    rejections = [
        mmd_test(counts(0.05), counts(0.05), method=method, num_permutations=39, generator=generator)[1] <= 0.1
        for _ in range(60)
    ]
    assert sum(rejections) <= 13  # 6 expected, three standard deviations are 7
    assert mmd_test(counts(0.05), counts(0.6), method=method, num_permutations=99, generator=generator)[1] == 0.01
    kernel = gaussian_scales(torch.cat([torch.zeros(9, 1), torch.full((1, 1), 3.0)]), (2.0,))[0]
    assert float(kernel.bandwidth) == 6.0


@pytest.mark.parametrize("method", ["permutation", "wild-bootstrap"])
def test_constant_data(method, generator):
    equal = torch.full((20, 3), 7.0)
    assert mmd_test(equal, equal, method=method, num_permutations=99, generator=generator) == (0.0, 1.0)
    assert mmd_test(equal, equal, gaussian_scales(equal), num_permutations=99, generator=generator)[1] == 1.0
    assert mmd_test(equal, equal + 1, method=method, num_permutations=99, generator=generator)[1] == 0.01
    one_sided = torch.cat([torch.zeros(19, 3), torch.ones(1, 3)])
    assert mmd_test(torch.zeros(20, 3), one_sided, method=method, num_permutations=99, generator=generator)[1] > 0.2


def test_a_gram_matrix_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    x = torch.zeros(100_000, 1)
    monkeypatch.setattr(two_sample, "memory_left", lambda device: 64 * 2**30)
    with pytest.raises(InputError, match="200000 points: their Gram matrix takes 447 GiB of 64 GiB free; test at most"):
        mmd_test(x, x, Gaussian(1.0))
    monkeypatch.setattr(two_sample, "memory_left", lambda device: None)  # a system that does not say
    assert mmd_test(x[:5], x[:5], Gaussian(1.0), num_permutations=9)[1] == 1.0


def test_flow_stops_with_its_p_value(generator):
    y = normal(400)
    stop = StopWhenIndistinguishable(y[200:], every=5, num_permutations=99, generator=generator)
    result = flow(MMD(y[:200], Riesz()), y[:100] + 4, step_size=0.5, momentum=0.8, num_steps=500, callback=stop)
    report = result.report
    assert report["accepted"]
    assert report["p_value"] >= 0.05
    assert result.steps[-1] == report["tested_at"][-1] < 500
    assert all(p < 0.05 for p in report["p_values"][:-1])
    assert len(report["p_values"]) > 1


def test_flow_that_never_arrives_reports_its_p_value(generator):
    y = normal(100)
    stop = StopWhenIndistinguishable(y, every=2, num_permutations=99, generator=generator)
    result = flow(MMD(y, Riesz()), y + 50, step_size=1e-6, num_steps=5, callback=stop)
    assert result.report["p_values"] == [0.01, 0.01]
    assert not result.report["accepted"]
    never = StopWhenIndistinguishable(y, every=10)
    assert flow(MMD(y, Riesz()), y, step_size=0.1, num_steps=5, callback=never).report["p_value"] is None


def test_identical_constant_samples_pass():
    """What rounding leaves of the statistic is no evidence."""
    x, y = torch.ones(20, 2), torch.ones(15, 2)
    for kernel in (0.3 * Gaussian(0.7), 0.3 * Gaussian(0.7) + 0.1 * Laplace(1.0)):
        assert mmd_test(x, y, kernel, num_permutations=99)[1] == 1.0


def test_a_second_flow_is_tested_anew(generator):
    y = normal(100)
    stop = StopWhenIndistinguishable(y, every=3, num_permutations=99, generator=generator)
    divergence = MMD(y, Riesz())
    assert flow(divergence, normal(50, seed=1), step_size=0.01, num_steps=3, callback=stop).report["accepted"]
    again = flow(divergence, y + 10, step_size=0.01, num_steps=2, callback=stop).report
    assert again["p_value"] is None
    assert not again["accepted"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": torch.ones(5)}, "weights with StopWhenIndistinguishable"),
        ({"particles": normal(1)}, "particles has 1 point"),
        ({"particles": normal(5, 3), "field": MMD(normal(4, 3), Riesz())}, r"event shape \[3\]: must be \[2\]"),
        ({"method": "wild-bootstrap"}, "5 particles and 8 held-out samples"),
    ],
)
def test_what_cannot_be_tested_is_told_before_the_flow(settings, message, unchecked):
    settings = {"field": MMD(normal(8), Riesz()), "particles": normal(5), "method": "permutation"} | settings
    stop = StopWhenIndistinguishable(normal(8, seed=1), method=settings.pop("method"))
    with pytest.raises(InputError, match=message):
        flow(**settings, step_size=0.1, num_steps=1, callback=stop)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mmd_test(normal(4), normal(5), method="wild-bootstrap"), "with 4 and 5 points: must be equally many"),
        (lambda: mmd_test(normal(4), normal(5), method="bayes"), "method = 'bayes': must be one of permutation"),
        (lambda: mmd_test(normal(4), normal(5), []), "must hold at least one kernel"),
        (lambda: gaussian_scales(normal(4), (0.0,)), "factors = 0.0"),
        (lambda: StopWhenIndistinguishable(normal(1)), "held_out has 1 point"),
        (lambda: StopWhenIndistinguishable(normal(5), level=1.0), "level = 1.0"),
        (lambda: StopWhenIndistinguishable(normal(5), every=0), "every = 0"),
    ],
)
def test_bad_input(make, message, unchecked):
    with pytest.raises(InputError, match=message):
        make()


# Large samples


def under_draws(statistic, kernel, x, y, draws):
    return statistic(kernel, x, y, draws)[0]


@pytest.mark.parametrize("kernel", [Gaussian(0.8), Laplace(1.0) + 0.5 * Gaussian(2.0)])
def test_statistics_by_sums_are_those_of_gram_matrices(kernel, generator):
    x, y = normal(13), normal(9, seed=1) + 0.5
    labels = resampling.draw_labels(13, 9, 6, generator)
    by_gram, by_sums = (
        under_draws(way, kernel, x, y, labels) for way in (resampling.labels_by_gram, resampling.labels_by_sums)
    )
    torch.testing.assert_close(by_sums, by_gram, rtol=1e-10, atol=1e-12)
    signs = resampling.draw_signs(9, 9, 6, generator)
    by_gram, by_sums = (
        under_draws(way, kernel, x[:9], y, signs) for way in (resampling.signs_by_gram, resampling.signs_by_sums)
    )
    torch.testing.assert_close(by_sums, by_gram, rtol=1e-10, atol=1e-12)


def test_the_unbiased_statistic_under_labels_in_closed_form(generator):
    """Against sums written out, with the labels of one column."""
    x, y, kernel = normal(6), normal(4, seed=1), Gaussian(1.0)
    labels = resampling.draw_labels(6, 4, 1, generator)
    both = torch.cat([x, y])
    a, b = both[labels[:, 1] == 1], both[labels[:, 1] == 0]
    within = [(kernel(p, p).sum() - len(p)) / (len(p) * (len(p) - 1)) for p in (a, b)]
    expected = within[0] + within[1] - 2 * kernel(a, b).mean()
    assert under_draws(resampling.labels_by_gram, kernel, x, y, labels)[1] == pytest.approx(expected.item())


@pytest.mark.parametrize("kernel", [Gaussian(0.8), Matern(1.5, 1.0), RationalQuadratic(1.5, 0.7)])
def test_many_random_features_give_the_statistic_of_the_kernel(kernel, generator):
    mixed = 2.0 * kernel + Gaussian(3.0)
    x, y = normal(30), normal(20, seed=1) + 1
    labels = resampling.draw_labels(30, 20, 3, generator)
    features = under_draws(resampling.LabelsByFeatures(200_000, generator), mixed, x, y, labels)
    gram = under_draws(resampling.labels_by_gram, mixed, x, y, labels)
    torch.testing.assert_close(features, gram, rtol=0, atol=0.02 * float(gram[0]))


def test_the_linear_time_statistic_in_closed_form(generator):
    x, y, kernel = normal(6), normal(6, seed=1) + 1, Laplace(1.0)
    signs = resampling.draw_signs_of_halves(6, 6, 1, generator)
    k = [kernel(a, b).diagonal() for a, b in ((x[:3], x[3:]), (y[:3], y[3:]), (x[:3], y[3:]), (x[3:], y[:3]))]
    h = k[0] + k[1] - k[2] - k[3]
    expected = torch.stack([h.mean(), (signs[:, 1] * h).mean()])
    torch.testing.assert_close(under_draws(resampling.signs_by_pairs, kernel, x, y, signs), expected)


@pytest.mark.parametrize(
    "kernel", [Gaussian(1.0), Riesz(), Gaussian(1.0) + 0.2 * Laplace(2.0), Polynomial(2), Shifted(1.0)]
)
def test_values_of_pairs(kernel):
    x, y = normal(150), normal(150, seed=1)
    torch.testing.assert_close(resampling.of_pairs(kernel, x, y), kernel(x, y).diagonal())


large = pytest.mark.parametrize(
    ("method", "options"),
    [("random-features", {"num_features": 20}), ("linear-time", {}), ("permutation", {"tolerance": 1e-3})],
)


@large
def test_tests_of_large_samples_keep_their_level(method, options, generator):
    """Of samples that are stored sorted, and of unequal size."""
    rejections = 0
    for _ in range(200):
        x, y = (sorted_rows(n, generator) for n in (30, 24))
        p = mmd_test(x, y, Gaussian(1.0), method=method, num_permutations=19, generator=generator, **options)[1]
        rejections += p <= 0.1
    assert 8 <= rejections <= 34  # 20 expected; about 3 standard deviations each way


@large
def test_tests_of_large_samples_have_power(method, options, generator):
    x, y = normal(400), normal(300, seed=1) + 1
    settings = {"method": method, "num_permutations": 99, "generator": generator, **options}
    assert mmd_test(x, y, **settings)[1] == 0.01
    assert mmd_test(x, y, gaussian_scales(x, (0.5, 1.0)), **settings)[1] == 0.01


def test_sums_within_a_tolerance_change_no_verdict(monkeypatch):
    """The grid, however few points there are."""
    monkeypatch.setattr("mmdflow.ops.dispatch.SMALL", 0)
    monkeypatch.setattr("mmdflow.ops.fast.LEAST", 0)
    monkeypatch.setattr("mmdflow.ops.fast.PAIR", 1e6)
    x, y = normal(300).float(), normal(200, seed=1).float() + 0.1
    for method, size in (("permutation", 200), ("wild-bootstrap", 200)):
        whole, sums = (
            mmd_test(
                x[:size],
                y,
                Gaussian(1.0),
                method=method,
                num_permutations=49,
                tolerance=tolerance,
                generator=torch.Generator().manual_seed(0),
            )
            for tolerance in (None, 1e-4)
        )
        assert sums[0] == pytest.approx(whole[0], rel=1e-2)
        assert sums[1] == pytest.approx(whole[1], abs=0.021)


def test_no_gram_matrix_is_made_of_large_samples(generator, monkeypatch):
    monkeypatch.setattr(two_sample, "memory_left", lambda device: 2**20)
    x, y = normal(4000), normal(3000, seed=1) + 0.5
    for options in ({"method": "random-features"}, {"method": "linear-time"}, {"tolerance": 1e-3}):
        assert mmd_test(x, y, Gaussian(1.0), num_permutations=19, generator=generator, **options)[1] == 0.05
    with pytest.raises(
        InputError, match=r"num_permutations = 500 with 7000 points: takes 0 GiB .* must be at most 148"
    ):
        mmd_test(x, y, method="linear-time")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 1e-3, "block_size": 8}, "block_size = 8 with tolerance = 0.001: one of them must be None"),
        ({"tolerance": 0.0}, "tolerance = 0"),
        ({"method": "linear-time", "block_size": 8}, "block_size = 8 with method = 'linear-time': must be None"),
        (
            {"method": "random-features", "tolerance": 0.1},
            "tolerance = 0.1 with method = 'random-features': must be None",
        ),
        ({"method": "random-features", "num_features": 0}, "num_features = 0"),
        ({"method": "random-features", "kernel": Riesz()}, "kernel = Riesz: must be Gaussian, Matern"),
        ({"method": "random-features", "kernel": Polynomial(2)}, "kernel = Polynomial: must be Gaussian, Matern"),
        ({"method": "random-features", "kernel": Shifted(1.0)}, "kernel = Shifted: must be Gaussian, Matern"),
    ],
)
def test_options_that_do_not_go_together(options, message, unchecked):
    with pytest.raises(InputError, match=re.escape(message)):
        mmd_test(normal(9), normal(9, seed=1), **options)


def test_a_tolerance_where_no_sums_are_quick(unchecked):
    with pytest.raises(InputError, match="backend = 'fast' in dimension 4: must be 1 to 3"):
        mmd_test(normal(9, 4), normal(9, 4, seed=1), tolerance=1e-3)
