import pytest
from matplotlib.figure import Figure

from mmdflow.studies import sliced_kernels

TINY = {
    "data": "digits",
    "num_particles": 10,
    "num_steps": 60,
    "momentum": 0.8,
    "step_sizes": [0.1, 1.0],
    "parameters": {"Gaussian": [0.05, 2.0], "inverse multiquadric": [1.0], "Laplace": [2.0], "Riesz": [1.0, 1.5]},
}


def test_every_setting_is_measured_and_drawn(outcome):
    distances = outcome.figures["sliced_w2"]
    assert {name: list(table) for name, table in distances.items()} == {
        "Gaussian": ["0.05", "2"],
        "inverse multiquadric": ["1"],
        "Laplace": ["2"],
        "Riesz": ["1", "1.5"],
    }
    assert all(len(found) == 2 for table in distances.values() for found in table.values())
    outcome.draw(figure := Figure(layout="constrained"))
    assert len(figure.axes) == 5


def test_narrow_gaussian_does_not_move_and_riesz_does(outcome):
    start, distances = outcome.figures["sliced_w2_at_the_start"], outcome.figures["sliced_w2"]
    assert min(distances["Gaussian"]["0.05"]) == pytest.approx(start, rel=0.01)
    assert min(distances["Riesz"]["1"]) < 0.5 * start


def test_settings_that_work_are_nested(outcome):
    works = outcome.figures["hyper_parameters_that_work"]
    for name in TINY["parameters"]:
        assert set(works["0.05"][name]) <= set(works["0.1"][name]) <= set(works["0.2"][name])


def test_flows_that_diverge_are_reported():
    settings = TINY | {"parameters": {"Riesz": [1.9]}, "step_sizes": [1e30], "num_steps": 40}
    outcome = sliced_kernels.run(**settings, seed=0, progress=False)
    assert outcome.figures["sliced_w2"]["Riesz"]["1.9"] == [None]
    assert not outcome.seen
    outcome.draw(Figure(layout="constrained"))
