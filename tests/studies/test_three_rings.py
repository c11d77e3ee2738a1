"""Three rings at a tiny size: geometry, occupancy, what the flows do at once."""

import json

import pytest
import torch
from matplotlib.figure import Figure

from mmdflow.studies import three_rings

TINY = {
    "kale_steps": 20,
    "kale_step_size": 4e-4,
    "kale_mmd_steps": 20,
    "kale_mmd_step_size": 2e-2,
    "drmmd_steps": 20,
    "mmd_steps": 20,
    "points_per_ring": (12, 15),
}


def test_target_lies_on_three_rings_evenly():
    y = three_rings.target(10)
    assert y.shape == (30, 2)
    shares = three_rings.occupancy(y)
    assert shares["on_rings"] == pytest.approx([1 / 3] * 3)
    assert shares["outside"] == 0
    assert shares["farthest"] == pytest.approx(0, abs=1e-12)


def test_occupancy_counts_what_is_off_the_rings():
    x = torch.tensor([[0.0, 0.3], [0.34, 0.0], [0.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    shares = three_rings.occupancy(x)
    assert shares["on_rings"] == [0.5, 0.0, 0.0]
    assert shares["outside"] == 0.5
    assert shares["farthest"] == pytest.approx(4.7)


def test_all_start_on_the_first_ring_and_mmd_leaves_it(outcome):
    flows = outcome.figures["flows"]
    assert list(flows) == ["KALE, lambda 1e-3", "KALE, lambda 1e4", "DrMMD, lambda 1e-3", "MMD"]
    for result in flows.values():
        assert result["outside"][0] == 0
        assert result["most_outside"] == pytest.approx(max(result["outside"]), abs=1e-3)
        assert sum(result["end"]["on_rings"]) + result["end"]["outside"] == pytest.approx(1)
    assert flows["KALE, lambda 1e4"]["end"]["outside"] > flows["KALE, lambda 1e-3"]["end"]["outside"]
    assert flows["MMD"]["end"]["farthest"] > flows["DrMMD, lambda 1e-3"]["end"]["farthest"]
    assert outcome.seen is False  # nothing reaches the third ring in 20 steps
    json.dumps(outcome.figures)


def test_draws(outcome):
    figure = Figure()
    outcome.draw(figure)
    assert len(figure.axes) == 16
