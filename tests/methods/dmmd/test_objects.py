"""Objectives, pairings and penalty points are objects: of the library under their names, and one's own."""

import pytest
import torch

from mmdflow import DMMDLoss, InputError, LinearSchedule, NoiseConditionalKernel
from mmdflow.features import MLPFeatures
from mmdflow.methods.dmmd import (
    Disjoint,
    Interpolate,
    KLBound,
    LossSettings,
    MMDObjective,
    Paired,
    Path,
    PenaltyPoints,
    PerClass,
    ReverseKLBound,
    Segment,
    Shared,
)
from mmdflow.methods.dmmd.objectives import Gain, Objective
from mmdflow.noise import NoiseConditionalWitness


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def batch(n=32):
    return torch.randn(n, 3, dtype=torch.float64, generator=seeded(0))


def make(*, witness=False, objects=None, **settings):
    torch.manual_seed(0)
    features = MLPFeatures((3,), 4, "flat", width=8, depth=1).double()
    kernel = NoiseConditionalWitness(features, 4).double() if witness else NoiseConditionalKernel(features)
    settings = LossSettings(num_levels=2, **settings)
    return DMMDLoss(kernel, LinearSchedule(), second_moment=1.0, settings=settings, **(objects or {}))


@pytest.mark.parametrize(
    ("settings", "objects"),
    [
        ({"pairing": "disjoint"}, {"pairing": Disjoint()}),
        ({"pairing": "paired"}, {"pairing": Paired()}),
        ({"pairing": "shared"}, {"pairing": Shared(), "objective": MMDObjective()}),
        ({"penalty_points": "path"}, {"penalty_points": Path()}),
        ({"penalty_points": "path", "segment_every": 4}, {"penalty_points": Path(4)}),
        ({"penalty_points": "segment"}, {"penalty_points": Segment()}),
        ({"penalty_points": "interpolate"}, {"penalty_points": Interpolate()}),
        ({"objective": "kl", "ridge": 0.3}, {"objective": KLBound(0.3)}),
        ({"objective": "reverse-kl", "ridge": 0.3}, {"objective": ReverseKLBound(0.3)}),
    ],
)
def test_names_stand_for_objects(settings, objects):
    witness = "objective" in settings
    by_name, by_object = make(witness=witness, **settings), make(witness=witness, objects=objects)
    assert torch.equal(by_name(batch(), seeded()).total, by_object(batch(), seeded()).total)


def test_penalty_points_of_ones_own():
    class Middle(PenaltyPoints):
        name = "middle"
        holds_noisy = False

        def draw(self, batch, generator=None):
            return (batch.clean + batch.noisy).detach() / 2

    loss = make(objects={"penalty_points": Middle()}, form="path")
    loss(batch(), seeded()).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in loss.parameters())
    with pytest.raises(InputError, match="pairing = 'shared' with penalty_points = 'middle'"):
        make(objects={"penalty_points": Middle()}, pairing="shared")


def test_an_objective_of_ones_own():
    class Plain(Objective):
        """The biased MMD^2 of linear features."""

        name = "plain"

        def __call__(self, kernel, features, levels, pairing):
            difference = features.noisy.mean(1) - features.clean.mean(1)
            weights = difference[:, None].expand_as(features.at_points)
            return Gain(difference.square().sum(1), features.at_points, weights)

    biased = make(objects={"objective": Plain()}, normalize=False)(batch(), seeded())
    unbiased = make(normalize=False)(batch(), seeded())
    assert (biased.mmd2 >= 0).all()
    assert not torch.equal(biased.mmd2, unbiased.mmd2)
    torch.testing.assert_close(biased.unit, unbiased.unit)  # the witness is the same


def test_points_lie_on_the_segments_and_every_other_at_its_end():
    clean, noisy = batch(32), batch(32) + 5
    noised = Shared().batch(clean, noisy, torch.tensor([0.3, 0.6]).double())
    for points in (Segment(), Path()):
        position = (points.draw(noised, seeded()) - clean) / 5
        torch.testing.assert_close(position, position[:, :1].expand_as(position))
        assert ((position[1::2] > 0) & (position[1::2] < 1)).all()
        assert bool((position[::2] == 1).all()) == points.holds_noisy


@pytest.mark.parametrize("every", [4, 8])
def test_fewer_points_lie_on_segments(every):
    clean, noisy = batch(32), batch(32) + 5
    noised = Shared().batch(clean, noisy, torch.tensor([0.3, 0.6]).double())
    position = (Path(every).draw(noised, seeded()) - clean)[:, 0] / 5
    inside = position < 1
    assert inside.nonzero().flatten().tolist() == list(range(1, 32, every))
    torch.testing.assert_close(position[inside], (Path().draw(noised, seeded()) - clean)[inside, 0] / 5)


def test_classes_say_what_they_cannot_do():
    class Still:
        def velocity(self, x, at=None, weights=None):
            return 0 * x

    field, x = PerClass({0: Still(), 1: Still()}, torch.tensor([0, 1, 1])), torch.zeros(3, 4)
    assert field.velocity(x).shape == (3, 4)
    with pytest.raises(InputError, match="weights with classes: must be None"):
        field.velocity(x, weights=torch.full((3,), 1 / 3))
    with pytest.raises(InputError, match="x has 2 rows: must have 3, one a label"):
        field.velocity(x[:2])
