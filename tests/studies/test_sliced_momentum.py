import sys

import pytest
import torch
from matplotlib.figure import Figure

from mmdflow.errors import InputError
from mmdflow.studies import sliced_momentum
from mmdflow.studies._mnist import powers_of_two, unit_images

TINY = {
    "data": "digits",
    "num_particles": 12,
    "num_directions": 16,
    "num_steps": 40,
    "step_size": 0.05,
    "momentum": 0.8,
}


def test_flows_start_together_and_are_drawn(outcome):
    curves = outcome.figures["energy_distance"]
    assert len(curves) == 4
    assert len({values[0] for values in curves.values()}) == 1
    assert all(len(values) == len(outcome.figures["steps"]) for values in curves.values())
    outcome.draw(figure := Figure(layout="constrained"))
    assert len(figure.axes) == 5


def test_momentum_is_ahead_of_the_same_step_size(outcome):
    momentum, plain, *_ = outcome.figures["energy_distance"].values()
    assert momentum[-1] < plain[-1] < plain[0]


def test_the_same_seed_gives_the_same_figures(outcome):
    assert sliced_momentum.run(**TINY, seed=0, progress=False).figures == outcome.figures


def test_powers_of_two_end_with_the_last_step():
    assert powers_of_two(8) == [0, 1, 2, 4, 8]
    assert powers_of_two(10) == [0, 1, 2, 4, 8, 10]


def test_images_lie_in_the_unit_cube_and_do_not_repeat(generator):
    images = unit_images("digits", 50, generator)
    assert images.shape == (50, 1, 8, 8)
    assert float(images.min()) == 0.0
    assert float(images.max()) == 1.0
    assert len(torch.unique(images.flatten(1), dim=0)) == 50


def test_missing_data_and_too_many_particles_are_named(monkeypatch, tmp_path, generator):
    monkeypatch.setenv("MMDFLOW_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="MMDFLOW_DATA"):
        sliced_momentum.run(**TINY | {"data": "mnist"}, seed=0, progress=False)
    with pytest.raises(InputError, match="num_particles = 9999"):
        unit_images("digits", 9999, generator)
