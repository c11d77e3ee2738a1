import math

import pytest
import torch
from matplotlib.figure import Figure

from mmdflow import MMD, Riesz
from mmdflow.studies import sliced_distances
from mmdflow.studies.sliced_distances import FAMILIES, boards, lower_constant, measure, wasserstein_1

TINY = {"dims": [1, 2, 3], "num_points": 8, "num_pairs": 3, "largest_board": 64, "num_directions": 400}


def test_bounds_hold_and_are_drawn(outcome):
    assert outcome.seen
    assert all(0.9 < ratio <= 1 + 1e-9 for ratio in outcome.figures["largest_D2_over_W1"].values())
    for d, value in outcome.figures["largest_W1_over_R_and_D_at_our_exponents"].items():
        assert value <= outcome.figures["C_d_at_our_exponents"][d]
    outcome.draw(figure := Figure())
    assert len(figure.axes) == 4


def test_the_same_seed_gives_the_same_figures(outcome):
    assert sliced_distances.run(**TINY, seed=0, progress=False).figures == outcome.figures


def test_two_points_attain_the_upper_bound():
    x, y = torch.zeros(1, 4, dtype=torch.float64), torch.full((1, 4), 0.5, dtype=torch.float64)
    d2, w1, radius = measure(x, y)
    assert d2 == pytest.approx(1.0)
    assert w1 == pytest.approx(1.0)
    assert radius == pytest.approx(0.5)


def test_one_dimensional_distances_are_integrals_of_distribution_functions(generator):
    x, y = (torch.randn(30, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    edges = torch.cat([x, y]).flatten().sort().values
    middle = (edges[1:] + edges[:-1]) / 2
    gap = (middle[:, None] >= x.T).double().mean(1) - (middle[:, None] >= y.T).double().mean(1)
    assert wasserstein_1(x, y) == pytest.approx(float((gap.abs() * edges.diff()).sum()))
    assert float(MMD(y, Riesz())(x)) == pytest.approx(float((gap.square() * edges.diff()).sum()))


def test_constant_in_one_dimension():
    # Cauchy and Schwarz say W_1 <= (2R)^(1/2) D; extending to twice the ball costs a factor 2^(1/2)
    assert lower_constant(1) == pytest.approx(2.0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_checkerboards_have_wasserstein_distance_one_mesh(dim):
    for side, (x, y) in boards(dim, 40):
        assert len(x) == len(y) == side**dim / 2
        assert wasserstein_1(x, y) == pytest.approx(1 / side)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_scale_free(name, generator):
    x, y = FAMILIES[name](6, 3, generator)
    first, second = measure(x, y), measure(2 * x, 2 * y)
    assert second == pytest.approx([2 * v for v in first])
    assert math.isfinite(first[1])
