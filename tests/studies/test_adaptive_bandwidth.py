import math

import pytest
import torch
from matplotlib.figure import Figure

from mmdflow import Gaussian
from mmdflow.divergences.functional import mmd2
from mmdflow.kernels import optimal_bandwidth
from mmdflow.studies import adaptive_bandwidth
from mmdflow.studies.adaptive_bandwidth import boundary, gradient_norms, line, search_bandwidth, speed

TINY = {
    "dims": [1, 3],
    "sigmas": [1.0],
    "distances": [0.5, 2.0],
    "num_bandwidths": 201,
    "bandwidths": [1.0, 4.0],
    "start": 5.0,
    "num_steps": 400,
    "num_particles": 20,
    "step_size": 0.5,
    "num_particle_steps": 20,
    "floor": 1.0,
}


def test_figures_hold_the_curves_and_are_drawn(outcome):
    assert set(outcome.figures["mean_flow"]) == {"1.0", "4.0", "adaptive"}
    for times, values in outcome.figures["mean_flow"].values():
        assert times == sorted(times)
        assert values == sorted(values, reverse=True)
    outcome.draw(figure := Figure())
    assert len(figure.axes) == 4


def test_the_same_seed_gives_the_same_figures(outcome):
    assert adaptive_bandwidth.run(**TINY, seed=0, progress=False).figures == outcome.figures


def test_adaptive_mean_is_never_behind_a_fixed_bandwidth(outcome):
    times = outcome.figures["mean_times"]
    assert all(other is None or times["adaptive"] <= other for other in times.values())


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_closed_form_speed_is_the_gradient_of_half_mmd2(dim):
    a = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    norms = gradient_norms(2.5, a, dim, 0.8).exp()
    assert norms.tolist() == pytest.approx([2 * speed(2.5, float(b), dim, 0.8) for b in a])


def test_closed_form_agrees_with_samples(generator):
    d, sigma, a, n = 2, 0.7, 1.3, 4000
    shift = torch.tensor([1.5, 0.0], dtype=torch.float64)
    x, y = (sigma * torch.randn(n, d, dtype=torch.float64, generator=generator) for _ in range(2))
    s = a**2 + 2 * sigma**2
    expected = 2 * s ** (-d / 2) * (1 - math.exp(-(1.5**2) / (2 * s)))
    assert float(mmd2(x + shift, y, Gaussian(a, normalized=True))) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
@pytest.mark.parametrize("dim", [1, 4, 30])
def test_best_bandwidth_is_the_propositions(dim, sigma):
    for factor in (0.9, 1.5):
        row = search_bandwidth(dim, factor * boundary(dim, sigma), sigma, 2001)
        assert abs(row["found"] - row["predicted"]) <= row["spacing"]
        assert (row["predicted"] > 0) == (factor > 1)


@pytest.mark.parametrize("dim", [1, 5])
def test_power_of_the_distance_falls_linearly(dim):
    coarse, fine = line(dim, 500)["deviation"], line(dim, 2000)["deviation"]
    assert coarse < 0.02
    assert fine == pytest.approx(coarse / 4, rel=0.1)  # Euler is of first order
    r = 2 * boundary(dim, 1.0)
    rate = (dim + 2) * r ** (dim + 1) * speed(r, optimal_bandwidth(r, dim, 1.0), dim, 1.0)
    assert -rate == pytest.approx(line(dim, 1)["slope"])
