"""What moves particles: velocity fields without F, and schedules of fields."""

import pytest
import torch

from mmdflow import MMD, DescentNoise, Gaussian, InputError, SlicedMMD, VelocityField, flow


def points(n=6, d=2, seed=1):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Pull:
    """Every particle is drawn to one point; there is no F."""

    def __init__(self, to=0.0):
        self.to = to

    def velocity(self, x, at=None, weights=None):
        return self.to - (x if at is None else at)


def test_a_field_without_f_moves_particles_and_has_no_values():
    x = points()
    result = flow(Pull(), x, step_size=0.5, num_steps=3, save_every=1)
    torch.testing.assert_close(result.particles, x / 8)
    assert result.values.shape == (0,)
    assert result.nfe == 3
    assert isinstance(Pull(), VelocityField)
    assert isinstance(MMD(x, Gaussian(1.0)), VelocityField)


def test_a_schedule_gives_the_field_of_every_step_and_is_called_once_a_step():
    steps = []

    def schedule(step):
        steps.append(step)
        return Pull(to=float(step))

    x = points()
    result = flow(schedule, x, step_size=0.5, num_steps=4, integrator="heun")
    expected = x
    for step in range(4):
        first = expected - step
        expected = expected - 0.25 * (first + (expected - 0.5 * first - step))
    torch.testing.assert_close(result.particles, expected)
    assert steps == [0, 1, 2, 3]


def test_momentum_goes_on_from_field_to_field():
    x = points()
    moved = flow(lambda step: Pull(float(step)), x, step_size=0.5, num_steps=3, momentum=0.5).particles
    v = torch.zeros_like(x)
    for step in range(3):
        v = (x - step) + 0.5 * v
        x = x - 0.5 * v
    torch.testing.assert_close(moved, x)


def test_values_of_a_schedule_are_those_of_the_step_just_made():
    x, near, far = points(), MMD(points(seed=2), Gaussian(1.0)), MMD(points(seed=3) + 3, Gaussian(2.0))
    result = flow(lambda step: near if step == 0 else far, x, step_size=0.1, num_steps=2, save_every=1)
    states = [(near, 0), (near, 1), (far, 2)]
    expected = torch.stack([divergence(result.trajectory[i]) for divergence, i in states])
    torch.testing.assert_close(result.values, expected)


def test_a_schedule_of_equal_fields_is_the_field():
    divergence, x = SlicedMMD(points(20), 5, redraw=False, generator=torch.Generator().manual_seed(0)), points()
    settings = {"step_size": 0.3, "num_steps": 4, "momentum": 0.5}
    plain = flow(divergence, x, **settings)
    scheduled = flow(lambda step: divergence, x, **settings)
    assert torch.equal(plain.particles, scheduled.particles)
    assert torch.equal(plain.values, scheduled.values)


def test_noise_injection_and_weights_reach_a_field():
    class Watched(Pull):
        def velocity(self, x, at=None, weights=None):
            self.seen = (at, weights)
            return super().velocity(x, at, weights)

    field, x = Watched(), points()
    generator = torch.Generator().manual_seed(0)
    flow(field, x, step_size=0.1, num_steps=1, noise_injection=0.3, weights=torch.ones(6), generator=generator)
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(field.seen[0], x + 0.3 * noise)
    torch.testing.assert_close(field.seen[1], torch.full((6,), 1 / 6).double())


@pytest.mark.parametrize(
    ("field", "settings", "message"),
    [
        (Pull(), {"birth_death": 1.0}, "birth_death with field Pull: the field must have a witness"),
        (Pull(), {"reweighting": 1.0}, "reweighting with field Pull: the field must have a witness"),
        (Pull(), {"noise_injection": DescentNoise(1.0)}, "DescentNoise with field Pull: the field must have a value F"),
        (lambda step: "mmd", {}, r"field\(0\) = 'mmd': must be a VelocityField"),
        (3, {}, "field = 3: must be a Divergence"),
    ],
)
def test_bad_fields(field, settings, message, unchecked):
    with pytest.raises(InputError, match=message) as caught:
        flow(field, points(), step_size=0.1, num_steps=2, **settings)
    assert "\n" not in str(caught.value)


def test_a_swapped_call_is_one_short_line(unchecked):
    with pytest.raises(InputError, match="the field comes first") as caught:
        flow(points(), MMD(points(), Gaussian(1.0)), step_size=0.1, num_steps=2)
    assert len(str(caught.value)) < 120
    with pytest.raises(InputError, match=r"field = tensor \[6, 2\]: must be a Divergence") as caught:
        flow(points(), points(), step_size=0.1, num_steps=2)
    assert "\n" not in str(caught.value)


def test_particles_of_a_field_without_f_are_checked(unchecked):
    with pytest.raises(InputError, match="particles holds 1 NaN"):
        flow(Pull(), torch.tensor([[float("nan")]]), step_size=0.1, num_steps=1)
