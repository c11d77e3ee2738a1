import pytest
import torch
from matplotlib.figure import Figure

from mmdflow.studies import sliced_cost
from mmdflow.studies._fits import log_slope

TINY = {
    "dim": 5,
    "naive_sizes": [20, 40],
    "sliced_sizes": [20, 40, 80],
    "projections": [3, 20],
    "num_gradients": 1,
    "error_points": 10,
    "error_projections": [10, 1000],
    "error_dims": [4, 64],
    "fixed_projections": 100,
    "repeats": 3,
}


def test_figures_hold_every_curve_and_are_drawn(outcome):
    seconds = outcome.figures["seconds_of_1000_gradients"]
    assert {name: len(values) for name, values in seconds.items()} == {"naive": 2, "3": 3, "20": 3}
    assert all(value > 0 for values in seconds.values() for value in values)
    outcome.draw(figure := Figure())
    assert len(figure.axes) == 3


def test_errors_do_not_depend_on_the_clock(outcome):
    again = sliced_cost.run(**TINY, seed=0, progress=False).figures
    for key in ("error_against_projections", "error_against_dim"):
        assert again[key] == outcome.figures[key]


def test_error_falls_with_slices_and_grows_with_the_dimension(outcome):
    assert -0.8 < outcome.figures["error_exponents_in_projections"]["random"] < -0.3
    assert 0.2 < outcome.figures["error_exponents_in_dim"]["random"] < 0.8


def test_one_dimension_needs_one_slice(generator):
    x, y = (torch.randn(7, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    assert sliced_cost.relative_error(x, y, 1, "random", generator) < 1e-12


def test_log_slope_is_the_exponent_of_a_power():
    assert log_slope([1.0, 2.0, 8.0], [5 * v**-0.5 for v in (1.0, 2.0, 8.0)]) == pytest.approx(-0.5)
