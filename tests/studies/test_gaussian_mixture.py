"""Four Gaussians at a tiny size: the mixture's potential, the flows' distances."""

import json

import pytest
import torch
from matplotlib.figure import Figure

from mmdflow.studies import gaussian_mixture

TINY = {"num_points": 24, "num_steps": 25, "step_size": 5e-3}


def test_potential_gradient_is_autograds(generator):
    potential = gaussian_mixture.MixturePotential(
        torch.tensor(gaussian_mixture.CORNERS, dtype=torch.float64), gaussian_mixture.WIDTH
    )
    z = torch.randn(10, 2, generator=generator, dtype=torch.float64).requires_grad_()
    expected = torch.autograd.grad(potential(z).sum(), z)[0]
    torch.testing.assert_close(potential.grad(z.detach()), expected)


def test_potential_of_one_component_is_a_parabola():
    potential = gaussian_mixture.MixturePotential(torch.zeros(1, 2, dtype=torch.float64), 0.5)
    assert float(potential(torch.ones(1, 2, dtype=torch.float64))[0]) == pytest.approx(2 / (2 * 0.25))


def test_kale_at_a_large_lambda_is_the_mmd_flow(outcome):
    distances = outcome.figures["distance"]["MMD"]
    assert max(distances["10000"]) < 1e-6
    assert distances["0.001"][-1] > distances["10000"][-1]


def test_flows_start_together_and_kale_descends(outcome):
    figures = outcome.figures
    for of in figures["distance"].values():
        assert all(gaps[0] == 0 for gaps in of.values())
        assert all(len(gaps) == len(figures["steps"]) for gaps in of.values())
    values = figures["values"]["KALE 0.1"]
    assert values[-1] < values[0]
    assert values[0] == figures["values"]["KALE 0.1, noise"][0]
    json.dumps(dict(figures))


def test_draws(outcome):
    figure = Figure()
    outcome.draw(figure)
    assert len(figure.axes) == 9
