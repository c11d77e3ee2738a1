import math
from functools import partial

import pytest
import torch
from matplotlib.figure import Figure

from mmdflow.data import toy
from mmdflow.studies import checkerboard_widths
from mmdflow.studies._checkerboard_criteria import (
    DMMD,
    FIXED,
    INTERPOLATION,
    NORMALISED,
    gan_width_falls,
    shape_of_width,
    table,
    verdicts,
)
from mmdflow.studies._widths import FIRST_WIDTH, LearnedWidth, learn_width, train_mmd_gan
from mmdflow.studies.checkerboard_widths import SQUARE, board, judge

TINY = {
    "num_steps": 3,
    "num_levels": 2,
    "events_per_level": 8,
    "gan_steps": 12,
    "gan_batch": 16,
    "num_samples": 60,
    "num_particles": 40,
    "num_flow_levels": 3,
    "steps_per_level": 2,
    "step_sizes": [0.5, 1.0],
}
GRID = torch.linspace(0.02, 1, 33, dtype=torch.float64)


def test_figures_hold_every_method_and_are_drawn(outcome):
    flows = {DMMD, NORMALISED, INTERPOLATION, *(f"width {w:g}" for w in FIXED)}
    assert set(outcome.figures["widths"]) == set(outcome.figures["mmd2"]) == flows
    assert set(outcome.figures["samples"]) == flows | {"target", "MMD-GAN"}
    assert set(outcome.figures["chosen_step_sizes"].values()) <= set(TINY["step_sizes"])
    assert outcome.seen == all(outcome.figures["criteria"].values())
    outcome.draw(figure := Figure())
    assert len(figure.axes) == len(flows) + 2 + 3


def test_the_same_seed_gives_the_same_figures(outcome):
    assert checkerboard_widths.run(**TINY, seed=0, progress=False).figures == outcome.figures


def test_target_samples_are_on_the_board(outcome):
    target = outcome.figures["samples"]["target"]
    assert target["dark"] == 1
    assert target["outliers"] == 0


def test_judge_counts_light_squares_and_outliers(generator):
    held_out = board(400, generator)
    shifted = held_out + torch.tensor([SQUARE, 0.0])  # dark squares become light ones, or leave the board
    assert judge(held_out, held_out) == {"sliced_w2": pytest.approx(0, abs=1e-6), "dark": 1.0, "outliers": 0.0}
    judged = judge(shifted, held_out)
    assert judged["dark"] == 0
    assert judged["outliers"] == pytest.approx(0.25 * 0.44 / 0.5, abs=0.06)


def test_learned_width_starts_the_same_everywhere():
    width = LearnedWidth().requires_grad_(False)
    assert [float(width(torch.tensor(t))) for t in (0.02, 0.3, 1.0)] == [FIRST_WIDTH] * 3


def test_learning_a_width_raises_the_loss_it_is_for():
    """At t near 1 the checkerboard is told from noise by about half a square, far below the width it starts from."""
    options = {"num_levels": 2, "events_per_level": 64, "step_size": 0.03, "t_min": 0.9, "seed": 0, "progress": False}
    width = learn_width(partial(toy, "checkerboard"), normalize=False, unit_weight=0.1, num_steps=60, **options)
    assert 0.2 < float(width(torch.tensor(0.95))) < 0.6 * FIRST_WIDTH


def test_mmd_gan_approaches_its_target(generator):
    options = {"batch_size": 64, "step_size": 1e-3, "width_step_size": 1e-2, "unit_weight": 0.1, "progress": False}
    first, trained = (train_mmd_gan(partial(toy, "rings"), num_steps=steps, seed=0, **options) for steps in (1, 150))
    assert len(trained.widths) == 150
    y = toy("rings", 500, generator)
    before, after = (judge(gan.draw(500, generator), y)["sliced_w2"] for gan in (first, trained))
    assert after < 0.5 * before


def test_shape_of_a_width_that_falls_sharply_and_of_others():
    sharp = 0.1 + 0.4 * torch.sigmoid((GRID - 0.2) / 0.03)
    straight = 0.1 + 0.4 * GRID
    hump = 0.6 - (GRID - 0.5).abs()
    shapes = [shape_of_width(curve.tolist(), GRID.tolist()) for curve in (sharp, straight, hump, sharp.flip(0))]
    assert [shape["rank_correlation"] for shape in shapes[:2]] == pytest.approx([1, 1])
    assert abs(shapes[2]["rank_correlation"]) < 0.2
    assert shapes[3]["rank_correlation"] == pytest.approx(-1)
    assert shapes[0]["fall"] == pytest.approx(0.1 / 0.5, abs=0.01)
    assert shapes[1]["fall"] == pytest.approx(0.108 / 0.5)
    assert shapes[0]["transition"] < 0.1 < 0.45 < shapes[1]["transition"] <= 0.55


def test_mmd_gans_width_must_fall_over_a_shared_range():
    falling = torch.linspace(1.0, 0.3, 50).tolist()
    fall, shared = gan_width_falls(falling, [0.3, 0.6])
    assert fall == pytest.approx(sum(falling[-5:]) / 5)
    assert shared == pytest.approx(1)
    assert gan_width_falls(falling[::-1], [0.3, 0.5])[0] > 0.9
    assert gan_width_falls(falling, [0.15, 0.6])[1] == pytest.approx(1 / math.log2(1 / 0.3))
    assert gan_width_falls(falling, [0.01, 0.02])[1] == 0


CURVES = {name: torch.linspace(0.1, 0.5, len(GRID)).tolist() for name in (DMMD, NORMALISED)}
MMD2 = {
    INTERPOLATION: [1e-3, 1e-2],
    "width 0.1": [2e-3, 3e-3],
    "width 0.3": [4e-3, 2e-2],
    "width 0.5": [8e-3, 3e-2],
    DMMD: [1.1e-3, 1.1e-2],
    NORMALISED: [4e-3, 1.9e-2],
}
WORSE = {"sliced_w2": 0.2, "dark": 0.8}
QUALITY = {
    "target": {"sliced_w2": 0.01, "dark": 1.0},
    DMMD: {"sliced_w2": 0.1, "dark": 0.9},
    NORMALISED: {"sliced_w2": 0.05, "dark": 1.0},
    "width 0.1": WORSE,
}


def verdicts_of(name, quality):
    return verdicts(name, CURVES, GRID.tolist(), [1.0, 0.3], MMD2, quality)


def test_mmd2_is_like_the_interpolations_only_if_no_fixed_width_is_nearer():
    verdict = verdicts_of(DMMD, QUALITY)["discrepancy_like_interpolation"]
    assert verdict.holds
    assert verdict.measured == "0.10 to it, 1.01 to width 0.3"
    verdict = verdicts_of(NORMALISED, QUALITY)["discrepancy_like_interpolation"]
    assert not verdict.holds
    assert verdict.measured.endswith("0.04 to width 0.3")


def test_best_samples_win_by_both_figures_and_may_lose_to_those_of_the_other_loss():
    assert verdicts_of(DMMD, QUALITY)["samples_best"].holds
    better = {**QUALITY, INTERPOLATION: {"sliced_w2": 0.2, "dark": 0.95}}
    verdict = verdicts_of(DMMD, better)["samples_best"]
    assert not verdict.holds
    assert f"{INTERPOLATION} 0.950" in verdict.measured
    assert verdicts_of(NORMALISED, better)["samples_best"].holds


def test_the_table_holds_every_criterion_with_both_losses():
    judged = {name: verdicts_of(name, QUALITY) for name in (DMMD, NORMALISED)}
    lines = table(judged).splitlines()
    assert len(lines) == 2 + len(judged[DMMD]) == 7
    assert [line.split("|")[1].strip(" `") for line in lines[2:]] == list(judged[DMMD])
    assert lines[2].count("seen") == 2
    assert lines[3].count("not seen") == 2, "a straight line has no sharp transition"
