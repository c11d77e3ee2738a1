"""Bandwidths and regularisations that follow the particles; DrMMD on landmarks."""

from itertools import pairwise

import pytest
import torch

from mmdflow import MMD, AdaptiveMMD, AdaptiveRegularization, DrMMD, Gaussian, InputError, flow
from mmdflow.kernels import optimal_bandwidth


def normal(n, d=2, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_optimal_rule_is_proposition_3_1_on_the_moments():
    y = normal(4000, 3)
    divergence = AdaptiveMMD(y, minimum=0.1)
    divergence(y + torch.tensor([6.0, 0, 0]).double())
    sigma = (y - y.mean(0)).square().mean().sqrt().item()
    assert divergence.bandwidth == pytest.approx(optimal_bandwidth(6.0, 3, sigma))
    divergence(y + 0.1)
    assert divergence.bandwidth == 0.1


def test_gradient_rule_finds_the_optimal_bandwidth_of_gaussians():
    """Proposition 3.1 takes the slope of the mean, the rule the mean log slope; they agree for tight Gaussians."""
    y = 0.3 * normal(500, 1)
    divergence = AdaptiveMMD(y, "gradient", minimum=0.1)
    divergence(y + 6)
    assert divergence.bandwidth == pytest.approx(optimal_bandwidth(6.0, 1, 0.3), rel=0.2)


def test_median_rule_and_functions():
    x, y = torch.zeros(2, 1), torch.tensor([[3.0], [4.0]])
    median = AdaptiveMMD(y, "median", kernel=Gaussian)
    torch.testing.assert_close(median(x), MMD(y, Gaussian(3.0))(x))
    custom = AdaptiveMMD(y, lambda particles, target: 7.0, kernel=Gaussian)
    torch.testing.assert_close(custom(x), MMD(y, Gaussian(7.0))(x))


def test_minimum_is_the_nearest_neighbour_distance():
    y = torch.tensor([[0.0], [1.0], [1.0], [4.0]])
    assert AdaptiveMMD(y).minimum == 1.0


@pytest.mark.parametrize("rule", ["optimal", "gradient", "median"])
def test_one_target_point_draws_the_particles(rule):
    divergence = AdaptiveMMD(torch.ones(1, 2, dtype=torch.float64), rule, kernel=Gaussian)
    assert divergence.minimum == 0
    velocity = divergence.velocity(torch.zeros(1, 2).double())
    assert velocity.min() > 0
    assert torch.isfinite(velocity).all()
    assert divergence.velocity(torch.ones(1, 2).double()).tolist() == [[0, 0]]


def test_adaptive_flow_arrives_from_where_a_fixed_bandwidth_sees_nothing():
    y = normal(100)
    source = 0.3 * normal(100, seed=1) + 12
    fixed = flow(MMD(y, Gaussian(0.5, normalized=True)), source, step_size=2.5, num_steps=60).particles
    adaptive = flow(AdaptiveMMD(y, "gradient", kernel=Gaussian), source, step_size=2.5, num_steps=140).particles
    reached = [(particles - y.mean(0)).norm(dim=1).mean().item() for particles in (fixed, adaptive)]
    assert reached[0] > 10
    assert reached[1] < 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y: AdaptiveMMD(y, "best"), "bandwidth = 'best': must be one of optimal, gradient, median"),
        (lambda y: AdaptiveMMD(y, minimum=-1.0), "minimum = -1.0"),
        (lambda y: AdaptiveMMD(y, lambda a, b: -1.0)(y), r"bandwidth\(particles, target\) = -1.0"),
        (lambda y: AdaptiveMMD(normal(3, 200)), "in dimension 200 .at most 100.; give kernel=Gaussian"),
        (lambda y: AdaptiveMMD(y, kernel=lambda b: "k")(y), "kernel = 'k': must be a Kernel"),
        (lambda y: AdaptiveRegularization(DrMMD(y, Gaussian(1.0), 1.0), 2.0), "minimum = 2.0"),
        (lambda y: DrMMD(y, Gaussian(1.0), 1.0, num_landmarks=9), "num_landmarks = 9: must be at most the target's 5"),
        (lambda y: DrMMD(y, Gaussian(1.0), 1.0, num_landmarks=0), "num_landmarks = 0"),
    ],
)
def test_bad_input(make, message, unchecked):
    with pytest.raises(InputError, match=message):
        make(normal(5))


def test_landmarks_that_hold_every_distinct_point_are_exact():
    y = normal(10, seed=1).repeat(3, 1)
    x = normal(8) + 0.5
    exact = DrMMD(y, Gaussian(1.0), 0.05)
    nystrom = DrMMD(y, Gaussian(1.0), 0.05, num_landmarks=28)  # every point is there three times
    assert nystrom.jitter > 0 == exact.jitter
    assert nystrom.jitter < 1e-12
    torch.testing.assert_close(nystrom(x), exact(x), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(nystrom.velocity(x), exact.velocity(x), rtol=1e-5, atol=1e-6)


def test_landmarks_approximate_from_above_and_converge():
    """A compressed covariance is smaller, so that the regularised norm is larger, towards MMD^2 (1 + lambda) / lambda."""
    x, y = normal(100) * 0.7 + 0.3, normal(300, seed=1)
    exact = DrMMD(y, Gaussian(0.8), 1e-2)(x).item()
    few, many = (
        DrMMD(y, Gaussian(0.8), 1e-2, num_landmarks=p, generator=torch.Generator().manual_seed(0))(x).item()
        for p in (5, 100)
    )
    assert few > many >= exact * (1 - 1e-6)
    assert many == pytest.approx(exact, rel=2e-2)


def test_many_points_use_landmarks_by_default(monkeypatch):
    monkeypatch.setattr("mmdflow.divergences.drmmd.EXACT_POINTS", 20)
    monkeypatch.setattr("mmdflow.divergences.drmmd.DEFAULT_LANDMARKS", 7)
    divergence = DrMMD(normal(21), Gaussian(1.0), 0.1)
    assert not divergence.exact
    assert len(divergence.landmarks) == 7


@pytest.mark.parametrize("num_landmarks", [None, 6])
def test_regularization_can_be_set(num_landmarks):
    x, y = normal(8) + 0.5, normal(12, seed=1)

    def make(regularization):
        seeded = torch.Generator().manual_seed(0)
        return DrMMD(y, Gaussian(1.0), regularization, num_landmarks=num_landmarks, generator=seeded)

    divergence = make(1.0)
    for regularization in (0.1, 5.0):
        divergence.regularization = regularization
        torch.testing.assert_close(divergence(x), make(regularization)(x), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 5.0])
def test_landmarks_in_float32(bandwidth):
    y = normal(1200).float()
    divergence = DrMMD(y, Gaussian(bandwidth), 0.1, num_landmarks=1000)
    exact = DrMMD(y, Gaussian(bandwidth), 0.1)
    x = normal(50, seed=1).float() + 0.5
    assert divergence(x).item() == pytest.approx(exact(x).item(), rel=0.05)


def test_callbacks_begin_every_flow_anew():
    y = normal(30)
    divergence = DrMMD(y, Gaussian(1.0), 1.0)
    adapt = AdaptiveRegularization(divergence, minimum=0.1)
    first, second = (
        flow(divergence, y + 1.5, step_size=0.1, num_steps=5, callback=adapt).report["regularization"] for _ in range(2)
    )
    assert first == pytest.approx(second)
    assert len(second) == 5
    with pytest.raises(InputError, match="weights with AdaptiveRegularization"):
        flow(divergence, y, step_size=0.1, num_steps=1, callback=adapt, weights=torch.ones(30))


def test_adaptive_regularization_follows_the_value():
    y = normal(50)
    divergence = DrMMD(y, Gaussian(1.0), 1.0)
    adapt = AdaptiveRegularization(divergence, minimum=0.4)
    result = flow(divergence, y + 1.5, step_size=0.1, num_steps=60, callback=adapt, save_every=[1])
    followed = result.report["regularization"]
    assert len(followed) == 60
    values = [DrMMD(y, Gaussian(1.0), 1.0)(y + 1.5).item(), DrMMD(y, Gaussian(1.0), 1.0)(result.trajectory[1]).item()]
    assert followed[0] == pytest.approx((values[1] / values[0]) ** 0.5)
    assert followed[-1] == 0.4 == divergence.regularization
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(followed))
