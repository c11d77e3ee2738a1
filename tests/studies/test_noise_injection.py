"""Noise injection at a tiny size."""

import itertools
import json

from matplotlib.figure import Figure

from mmdflow.studies import noise_injection

TINY = {"num_points": 20, "num_steps": 60, "noise": 3.0}


def test_plain_flows_descend(outcome):
    for pair in outcome.figures["flows"].values():
        values = pair["plain"]["values"]
        assert all(b <= a for a, b in itertools.pairwise(values))
        assert pair["plain"]["values"][0] == pair["noise"]["values"][0]


def test_farther_sources_start_and_end_higher(outcome):
    starts = [pair["plain"]["values"][0] for pair in outcome.figures["flows"].values()]
    ends = [pair["plain"]["value"] for pair in outcome.figures["flows"].values()]
    assert starts == sorted(starts)
    assert ends == sorted(ends)


def test_seen_needs_both_parts(outcome):
    figures = outcome.figures
    assert outcome.seen == (figures["below_half_at_every_distance"] and figures["plain_stalls"])
    json.dumps(dict(figures))


def test_few_steps_and_draws():
    figure = Figure()
    noise_injection.run(num_points=2, num_steps=1, noise=1.0, seed=0, progress=False).draw(figure)
    assert len(figure.axes) == noise_injection.FRAMES + 3
