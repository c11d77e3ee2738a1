"""Squares of images as a space that generated events are compared in."""

import math

import pytest
import torch

from mmdflow import InputError
from mmdflow.features import MLPFeatures
from mmdflow.methods.drifting import DriftingLoss, DriftingLossSettings, Generator, Patches, Pixels, SpacesSettings
from mmdflow.methods.drifting.recipe import DriftingRecipe
from mmdflow.runs.read import read_recipe

SETTINGS = DriftingLossSettings(bandwidths=[0.3, 1.0])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=20, seed=0, channels=2):
    return torch.randn(n, channels, 6, 8, dtype=torch.float64, generator=seeded(seed))


def loss_in(*spaces, feature_weight=None):
    torch.manual_seed(0)
    network = MLPFeatures((2, 6, 8), 1, width=8, depth=1).double()
    for space in spaces:
        space.measure(images(seed=1), seeded(1))
    return DriftingLoss(Generator(network), list(spaces), SETTINGS, feature_weight=feature_weight)


def pull_of(loss, batch, samples, seed=3):
    """What a step's loss asks of generated events."""
    return loss._pull(samples, None, loss._groups(batch, seeded()), seeded(seed))[0]


def test_a_square_of_every_event_at_a_place_of_the_step():
    """All places are drawn, the same for all events."""
    space, x, places = Patches(3), images(), set()
    for seed in range(300):
        space.measure(images(seed=2), seeded(seed))
        places.add(space.place)
        i, j = space.place
        torch.testing.assert_close(space(x)[0] * space.scales[0], x[:, :, i : i + 3, j : j + 3].flatten(1))
    assert places == {(i, j) for i in range(4) for j in range(6)}


def test_what_patches_ask_stays_in_the_square_and_is_as_long_as_the_weight():
    batch, samples = images(16, 4), images(16, 5) / 2
    both, alone = (
        pull_of(loss_in(*spaces, feature_weight=1.0), batch, samples)
        for spaces in ([Pixels(), Patches(3, 0.5)], [Pixels()])
    )
    space = Patches(3)
    space.measure(batch, seeded(3))
    (i, j), asked = space.place, both - alone
    inside = torch.zeros(6, 8, dtype=bool)
    inside[i : i + 3, j : j + 3] = True
    assert float(asked[:, :, ~inside].abs().max()) < 1e-15 < float(asked[:, :, inside].abs().min())
    assert float(asked.square().mean().sqrt()) == pytest.approx(0.5 * 2 / samples.numel())


def test_patches_as_large_as_the_image_are_pixels():
    """Where both have one scale; and weighted."""
    batch, samples = (torch.randn(16, 1, 6, 6, dtype=torch.float64, generator=seeded(seed)) for seed in (4, 5))
    spaces = [Pixels(), Patches(6, 0.7)]
    pulls = []
    for chosen in (spaces, spaces[:1]):
        for space in chosen:
            space.measure(batch, seeded(1))
        spaces[0].scales = [math.sqrt(2) * float(batch.var(0, correction=0).mean().sqrt())]
        network = MLPFeatures((1, 6, 6), 1, width=8, depth=1).double()
        pulls.append(pull_of(DriftingLoss(Generator(network), chosen, SETTINGS, feature_weight=1.0), batch, samples))
    torch.testing.assert_close(pulls[0], 1.7 * pulls[1], rtol=1e-9, atol=1e-12)


def test_a_square_without_variation_asks_nothing():
    """The corners of MNIST are black in all images."""
    batch = torch.zeros(12, 1, 6, 8, dtype=torch.float64)
    batch[:, 0, 5, 7] = torch.arange(12.0)
    space = Patches(2)
    for seed in range(30):
        space.measure(batch, seeded(seed))
        assert (space.length == 0) == (space.place != (4, 6))
        assert bool(torch.isfinite(space(batch)[0]).all())
    space.measure(torch.zeros_like(batch), seeded())
    assert space.length == 0


def test_a_recipe_has_patches_and_trains_with_them():
    changes = {"spaces": {"patches": 3}, "loss": {"population": 8}, "training": {"batch_size": 8}}
    recipe = read_recipe("drifting-digits", changes)
    from mmdflow import data
    from mmdflow.methods import get_method

    loss = get_method("drifting").make_system().loss(recipe, data.load("digits"))
    assert [space.name for space in loss.spaces] == ["pixels", "patches"]
    events = data.load("digits").train[:8]
    gradients = []
    for _ in range(2):  # the same generator, the same place
        loss.zero_grad()
        loss(events, seeded()).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in loss.generator.parameters()]))
    assert torch.equal(*gradients)
    assert float(gradients[0].norm()) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Patches(7).measure(torch.zeros(4, 1, 6, 8)),
            r"spaces.patches = 7 with events \[1, 6, 8\]: must be at most 6",
        ),
        (lambda: Patches(2).measure(torch.zeros(4, 2)), r"spaces.patches = 2 with events \[2\]: must be for images"),
        (lambda: SpacesSettings(patches=0), "spaces.patches = 0"),
        (lambda: SpacesSettings(patches=3, patch_weight=0.0), "spaces.patch_weight = 0"),
        (lambda: SpacesSettings(patch_weight=2.0), "spaces.patch_weight = 2 without spaces.patches"),
        (
            lambda: DriftingRecipe(
                spaces=SpacesSettings(patches=3),
                loss=DriftingLossSettings(field="mmd", landmarks=5),
                features=read_recipe("drifting-digits").features,
                training=read_recipe("drifting-digits").training,
            ),
            "loss.landmarks = 5 with spaces.patches",
        ),
    ],
)
def test_bad_patches(make, message, unchecked):
    with pytest.raises(InputError, match=message):
        make()
