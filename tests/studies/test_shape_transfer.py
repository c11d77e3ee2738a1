"""Shape transfer at a tiny size: the regions' areas and symmetries, what the flows leave."""

import json

import pytest
import torch
from matplotlib.figure import Figure

from mmdflow.studies import shape_transfer

TINY = {"num_points": 40, "num_steps": 10}


def test_spiral_is_half_of_every_disc_and_has_four_arms(generator):
    z = 2 * torch.rand(20000, 2, generator=generator, dtype=torch.float64) - 1
    inside = shape_transfer.in_spiral(z)
    assert float(inside[z.norm(dim=1) < 1].double().mean()) == pytest.approx(0.5, abs=0.02)
    quarter = torch.stack([-z[:, 1], z[:, 0]], 1)
    assert float((shape_transfer.in_spiral(quarter) == inside).double().mean()) > 0.999


def test_heart_is_symmetric_and_pointed_below(generator):
    z = 2 * torch.rand(1000, 2, generator=generator, dtype=torch.float64) - 1
    assert bool((shape_transfer.in_heart(z) == shape_transfer.in_heart(z * torch.tensor([-1, 1]))).all())
    points = torch.tensor([[0.0, -0.64], [0.3, -0.64], [0.0, 0.64], [0.0, 0.66]], dtype=torch.float64)
    assert shape_transfer.in_heart(points).tolist() == [True, False, True, False]


def test_regions_are_drawn_inside(generator):
    for inside in (shape_transfer.in_heart, shape_transfer.in_spiral):
        points = shape_transfer.draw_region(inside, 100, generator)
        assert points.shape == (100, 2)
        assert bool(inside(points).all())


def test_figures(outcome):
    figures = outcome.figures
    assert list(figures["flows"]) == list(shape_transfer.FLOWS)
    for result in (figures["source"], *figures["flows"].values()):
        assert result["energy_distance"] > 0
        assert 0 <= result["outside"] <= 1
    json.dumps(dict(figures))


def test_draws(outcome):
    figure = Figure()
    outcome.draw(figure)
    assert len(figure.axes) == 12
