"""The strength of fine detail as a space that generated events are compared in."""

import pytest
import torch

from mmdflow import InputError, data
from mmdflow.features import MLPFeatures
from mmdflow.methods import get_method
from mmdflow.methods.drifting import DriftingLoss, DriftingLossSettings, Generator, Pixels, SpacesSettings, Texture
from mmdflow.runs.read import read_recipe

SETTINGS = DriftingLossSettings(bandwidths=[0.3, 1.0])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=20, seed=0, channels=2):
    return torch.randn(n, channels, 6, 8, dtype=torch.float64, generator=seeded(seed))


def by_the_formula(x, side):
    """Pixel by pixel."""
    channels, height, width = x.shape[1:]
    strengths = torch.zeros(3, *x.shape, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            if j + 1 < width:
                strengths[0, :, :, i, j] = x[:, :, i, j + 1] - x[:, :, i, j]
            if i + 1 < height:
                strengths[1, :, :, i, j] = x[:, :, i + 1, j] - x[:, :, i, j]
            around = x[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            strengths[2, :, :, i, j] = x[:, :, i, j] - around.mean((2, 3))
    strengths = (strengths**2 + 1e-4) ** 0.5
    found = []
    for kind in range(3):
        for channel in range(channels):
            for i in range(0, height, side):
                for j in range(0, width, side):
                    found.append(strengths[kind, :, channel, i : i + side, j : j + side].mean((1, 2)))
    return torch.stack(found, 1)


@pytest.mark.parametrize("side", [1, 2, 4, 6])
def test_it_is_its_formula(side):
    """Also with squares that the image does not hold a whole number of."""
    space, x = Texture(side), images()
    space.measure(images(seed=2))
    torch.testing.assert_close(space(x)[0] * space.scales[0], by_the_formula(x, side), rtol=1e-12, atol=1e-14)


def test_what_it_knows_of_an_image():
    """Neither its brightness nor the sign of its detail; twice the contrast has twice the strength."""
    space, x = Texture(2), images()
    space.measure(images(seed=2))
    strength, floor = space(x)[0], 0.01 / space.scales[0]
    torch.testing.assert_close(space(x + 3)[0], strength, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(space(-x)[0], strength)
    torch.testing.assert_close(space(2 * x)[0], 2 * strength, rtol=0, atol=2 * float(floor))
    assert bool((space(torch.ones_like(x))[0] == floor).all())


def test_gradients_are_exact_and_finite_where_nothing_varies():
    space = Texture(2)
    space.measure(images(seed=2))
    x = images(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: space(z)[0], x)
    flat = torch.zeros(2, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(space(flat)[0].sum(), flat)
    assert bool((gradient == 0).all())


def pull_of(spaces, batch, samples):
    torch.manual_seed(0)
    network = MLPFeatures((2, 6, 8), 1, width=8, depth=1).double()
    for space in spaces:
        space.measure(batch, seeded(1))
    loss = DriftingLoss(Generator(network), spaces, SETTINGS)
    return loss._pull(samples, None, loss._groups(batch, seeded()), seeded(3))[0]


def test_what_it_asks_is_as_long_as_the_weight():
    batch, samples = images(16, 4), images(16, 5) / 2
    once, thrice = (pull_of([Texture(2, weight)], batch, samples) for weight in (1.0, 3.0))
    assert float(once.square().mean().sqrt()) == pytest.approx(2 / samples.numel())
    torch.testing.assert_close(thrice, 3 * once)


def test_smooth_events_get_the_detail_of_the_data():
    """Events with a tenth of the data's contrast flow to its strength of detail; in pixels, they flow to a mean."""
    batch = images(64, 4)
    x, spaces = 0.1 * images(64, 5), [Texture(3)]
    before = Texture(3)
    before.measure(batch)
    wanted, at_first = before(batch)[0].mean(), before(x)[0].mean()
    assert at_first < 0.2 * wanted
    for _ in range(60):
        pull = pull_of(spaces, batch, x)
        x = x - 0.05 * pull / pull.square().mean().sqrt()
    assert before(x)[0].mean() == pytest.approx(float(wanted), rel=0.15)


def test_a_recipe_has_it_and_trains_with_it():
    changes = {
        "spaces": {"patches": 3, "texture": 4},
        "loss": {"population": 8},
        "training": {"batch_size": 8},
    }
    loss = get_method("drifting").make_system().loss(read_recipe("drifting-digits", changes), data.load("digits"))
    assert [space.name for space in loss.spaces] == ["pixels", "patches", "texture"]
    loss(data.load("digits").train[:8], seeded()).total.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in loss.generator.parameters())


def test_with_pixels_both_are_as_long_as_each_other():
    batch, samples = images(16, 4), images(16, 5) / 2
    both, texture = (pull_of(spaces, batch, samples) for spaces in ([Pixels(), Texture(2)], [Texture(2)]))
    assert float((both - texture).square().mean().sqrt()) == pytest.approx(2 / samples.numel())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Texture(7).measure(torch.zeros(4, 1, 6, 8)),
            r"spaces.texture = 7 with events \[1, 6, 8\]: must be at most 6",
        ),
        (lambda: Texture(2).measure(torch.zeros(4, 2)), r"spaces.texture = 2 with events \[2\]: must be for images"),
        (lambda: Texture(2).measure(torch.zeros(4, 1, 6, 8)), "spaces: texture have no scale"),
        (lambda: SpacesSettings(texture=0), "spaces.texture = 0"),
        (lambda: SpacesSettings(texture=3, texture_weight=-1.0), "spaces.texture_weight = -1"),
        (
            lambda: SpacesSettings(texture_weight=2.0),
            "spaces.texture_weight = 2 without spaces.texture: is for texture",
        ),
    ],
)
def test_bad_texture(make, message, unchecked):
    with pytest.raises(InputError, match=message):
        make()
