import math

import pytest
import torch
from torch import nn

from mmdflow import (
    MMD,
    Gaussian,
    InputError,
    InverseMultiquadric,
    Laplace,
    Linear,
    Matern,
    Mixture,
    Polynomial,
    RationalQuadratic,
    Riesz,
)
from mmdflow.kernels import median_bandwidth, nearest_distance, optimal_bandwidth, thinned

X, Y = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[3.0, 4.0]]).double()


@pytest.mark.parametrize(
    ("kernel", "value"),
    [
        (Gaussian(2.0), math.exp(-25 / 8)),
        (Gaussian(2.0, normalized=True), math.exp(-25 / 8) / 4),
        (Laplace(2.0), math.exp(-5 / 2)),
        (Matern(0.5, 2.0), math.exp(-5 / 2)),
        (Matern(1.5, 2.0), (1 + math.sqrt(3) * 2.5) * math.exp(-math.sqrt(3) * 2.5)),
        (Matern(2.5, 2.0), (1 + math.sqrt(5) * 2.5 + 5 * 6.25 / 3) * math.exp(-math.sqrt(5) * 2.5)),
        (InverseMultiquadric(2.0), 1 / math.sqrt(29)),
        (RationalQuadratic(0.5, 2.0), (1 + 25 / 4) ** -0.5),
        (Riesz(), -5.0),
        (Riesz(1.5), -(5**1.5)),
        (Linear(), 0.0),
        (Polynomial(2, 1.0, 3.0), 9.0),
        (2 * Riesz() + Linear(), -10.0),
        (Riesz() * Riesz(), 25.0),
    ],
)
def test_values(kernel, value):
    assert kernel(X, Y).item() == pytest.approx(value, rel=1e-12)


def test_bandwidth_can_be_learned():
    bandwidth = nn.Parameter(torch.tensor(1.0))
    kernel = Gaussian(bandwidth)
    kernel(X.float(), Y.float()).sum().backward()
    assert list(kernel.parameters()) == [bandwidth]
    assert bandwidth.grad.item() == pytest.approx(25 * math.exp(-12.5), rel=1e-4)


def test_optimal_bandwidth_maximises_the_drive_on_the_mean():
    """Proposition 3.1 against a grid search over |d/dmu MMD^2|."""
    for mean, dim, sigma in [(5.0, 1, 1.0), (9.0, 3, 1.0), (4.0, 2, 0.3)]:
        a = torch.linspace(1e-3, 10, 200_001, dtype=torch.float64)
        s = a**2 + 2 * sigma**2
        drive = s ** (-dim / 2 - 1) * torch.exp(-(mean**2) / (2 * s))
        assert optimal_bandwidth(mean, dim, sigma) == pytest.approx(a[drive.argmax()].item(), abs=1e-4)
    assert optimal_bandwidth(1.0, 1, 1.0) == 0.0


def test_optimal_bandwidth_formula_is_the_gradient_of_mmd():
    """The drive above is what a large-sample MMD with the normalised kernel gives."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4000, 1, dtype=torch.float64, generator=generator)
    moved = torch.randn(4000, 1, dtype=torch.float64, generator=generator) + 3
    velocities = []
    for a in (1.0, optimal_bandwidth(3.0, 1, 1.0), 3.0):
        velocity = MMD(base, Gaussian(a, normalized=True)).velocity(moved).mean().abs()
        s = a**2 + 2
        assert velocity == pytest.approx(3 * s**-1.5 * math.exp(-9 / (2 * s)), rel=0.06)
        velocities.append(velocity)
    assert velocities[1] == max(velocities)


def test_median_bandwidth():
    assert median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2.0)


def ordered(kind):
    """Rows of which a part in the given order is no sample: sorted, by class, alternating, with a period, counts with ties."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=generator)
    if kind == "sorted":
        return x[x[:, 0].argsort()]
    if kind == "classes":
        return torch.cat([0.01 * x[:3000], 100 + x[3000:]])
    if kind == "alternating":
        return torch.stack([x[:2000] * 0.01, x[2000:] + 50], 1).flatten(0, 1)
    if kind == "period":
        return x * torch.where(torch.arange(4000) % 4 == 3, 100.0, 1.0)[:, None]
    counts = torch.poisson(torch.full((4000, 3), 0.4), generator=generator)
    return counts[counts.sum(1).argsort()]


@pytest.mark.parametrize("kind", ["sorted", "classes", "alternating", "period", "counts"])
def test_heuristics_do_not_depend_on_the_order_of_rows(kind):
    x = ordered(kind)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    for heuristic in (median_bandwidth, nearest_distance):
        value = heuristic(x)
        assert heuristic(shuffled) == heuristic(x.flip(0)) == value
    assert median_bandwidth(x) == pytest.approx(median_bandwidth(x, 4000), rel=0.1)
    assert len(thinned(x, 500)) == 500
    assert torch.equal(thinned(x, 500), thinned(shuffled, 500))
    assert torch.equal(thinned(x, 4000), x)


def test_rows_that_occur_often_are_taken_often():
    x = torch.cat([torch.zeros(3000, 2), torch.ones(1000, 2)])
    assert thinned(x, 400).mean() == pytest.approx(0.25, abs=0.01)
    assert thinned(torch.cat([-x[:3000], x[3000:]]), 400).mean() == pytest.approx(0.25, abs=0.01)  # -0.0 is 0.0


def test_median_of_mostly_equal_points_is_that_of_the_positive_distances():
    assert median_bandwidth(torch.tensor([[0.0]] * 8 + [[3.0], [5.0]])) == pytest.approx(3.0)
    sparse = torch.zeros(100, 5)
    sparse[::10, 0] = 2.0
    assert median_bandwidth(sparse) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0.0), "bandwidth = 0.0: must be a finite number > 0"),
        (lambda: Gaussian(float("nan")), "bandwidth = nan"),
        (lambda: Laplace(-1.0), "bandwidth = -1.0"),
        (lambda: Matern(2.0, 1.0), "nu = 2.0: must be one of 0.5, 1.5, 2.5"),
        (lambda: Riesz(2.0), r"exponent = 2.0: must be a number in \(0, 2\)"),
        (lambda: Polynomial(0), "degree = 0: must be an integer >= 1"),
        (lambda: Polynomial(2, constant=-1.0), "constant = -1.0"),
        (lambda: RationalQuadratic(-1.0), "alpha = -1.0"),
        (lambda: Mixture([]), "kernels = "),
        (lambda: Mixture([Linear()], [1.0, 2.0]), "weights has 2 entries: must have 1"),
        (lambda: -1.0 * Linear(), "weights = -1.0"),
        (lambda: Gaussian(torch.tensor([1.0, 2.0])), "bandwidth = "),
        (lambda: median_bandwidth(torch.zeros(5, 2)), "are most points equal"),
        (lambda: median_bandwidth(torch.zeros(1, 2)), "needs at least 2"),
        (lambda: optimal_bandwidth(-1.0, 1, 1.0), "mean_norm = -1.0"),
    ],
)
def test_bad_input(make, message, unchecked):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("kernel", [Gaussian, Laplace, InverseMultiquadric])
def test_a_bandwidth_whose_powers_overflow_is_refused(kernel):
    with pytest.raises(InputError, match=r"must be at most 1e\+75"):
        kernel(1e160)
