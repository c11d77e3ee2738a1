"""Mode seeking at a tiny size, and the limits of KALE."""

import json

import pytest
from matplotlib.figure import Figure

from mmdflow.studies import mode_seeking

TINY = {"num_points": 24, "grid": 5, "num_steps": 30, "regularizations": (1e-2, 1e4)}


def test_gaussian_has_its_moments():
    x = mode_seeking.gaussian(1.5, 0.7, 31)
    assert float(x.mean()) == pytest.approx(1.5)
    assert float(x.std(correction=0)) == pytest.approx(0.7)
    assert bool((x[:, 0].diff() > 0).all())


def test_large_regularisation_is_mmd(outcome):
    fits = outcome.figures["best_gaussian"]
    assert list(fits) == ["mmd", "0.01", "10000"]
    assert fits["10000"]["value"] == pytest.approx(fits["mmd"]["value"], rel=1e-2)
    assert fits["10000"]["width"] == pytest.approx(fits["mmd"]["width"])


def test_kale_takes_one_mode(outcome):
    fits = outcome.figures["best_gaussian"]
    assert abs(fits["0.01"]["centre"]) > 1.5
    assert abs(fits["mmd"]["centre"]) < 1.5
    assert fits["0.01"]["between"] < fits["mmd"]["between"]


def test_projected_flows_descend_from_their_sources(outcome):
    for pair in outcome.figures["projected_flow"].values():
        for start, result in zip(mode_seeking.STARTS, pair, strict=True):
            assert result["path"][0] == start
            assert result["path"][-1] == pytest.approx((result["centre"], result["width"]), abs=1e-4)
    json.dumps(dict(outcome.figures))


def test_draws(outcome):
    figure = Figure()
    outcome.draw(figure)
    assert len(figure.axes) == 3
