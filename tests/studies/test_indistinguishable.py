"""Indistinguishable flows at a tiny size: the judge judges, the flows approach, the picture is drawn."""

import json

import pytest
import torch
from matplotlib.figure import Figure

from mmdflow.studies import indistinguishable

TINY = {"num_points": 40, "num_steps": 20, "num_permutations": 30}


def test_every_flow_and_target_is_judged(outcome):
    cells = outcome.figures["flows"]
    assert len(cells) == 3
    for row in cells.values():
        assert tuple(row) == indistinguishable.TARGETS
        for cell in row.values():
            assert cell["p"] == min(cell["p_median"], cell["p_fine"])
            assert 1 / 31 <= cell["p"] <= 1
    p_values = [cell["p"] for row in cells.values() for cell in row.values()]
    assert outcome.seen == (min(p_values) > 0.05)
    json.dumps(outcome.figures)


def test_target_samples_lie_on_themselves(outcome):
    for cell in outcome.figures["target_samples"].values():
        assert cell["strays"] == 0
        assert cell["median_distance_to_target"] == 0


def test_flows_bring_the_source_nearer(outcome):
    source = outcome.figures["source"]
    for row in outcome.figures["flows"].values():
        for target, cell in row.items():
            assert cell["median_distance_to_target"] < source[target]["median_distance_to_target"]


def test_judge_rejects_a_shift_and_passes_the_same_law(generator):
    x, y, held_out = (torch.randn(200, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    shifted = indistinguishable._judge(x + 1, y, held_out, 100, 0)
    assert shifted["p"] == pytest.approx(1 / 101)
    assert shifted["strays"] > 0
    assert indistinguishable._judge(x, y, held_out, 100, 0)["p"] > 0.05


def test_draws(outcome):
    figure = Figure()
    outcome.draw(figure)
    assert len(figure.axes) == 9
