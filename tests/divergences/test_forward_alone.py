"""A divergence that gives `forward` alone: its witness and velocity against those in closed form, in float64."""

import pytest
import torch

from mmdflow import KALE, MMD, Divergence, DrMMD, Gaussian, InputError, Laplace, SlicedMMD, flow
from mmdflow.divergences.base import uniform
from mmdflow.flows import BirthDeath
from tests.laws.strategies import ForwardAlone


def points(n, d=2, seed=1):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CASES = {
    "mmd": MMD(points(9), Gaussian(0.9)),
    "mmd-laplace": MMD(points(9), Laplace(1.2)),
    "kale": KALE(points(9), Gaussian(0.9), 0.5, tolerance=1e-14),
    "drmmd": DrMMD(points(9), Gaussian(0.9), 0.5),
}
exact = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_witness_and_velocity_are_those_in_closed_form(name, weighted):
    divergence, x, at = CASES[name], points(6, seed=2) + 0.5, points(4, seed=3)
    weights = torch.arange(1, 7).double() / 21 if weighted else None
    derived, closed = ForwardAlone(divergence), divergence.witness(x, weights)
    difference = derived.witness(x, weights)(at) - closed(at)
    torch.testing.assert_close(difference, difference.mean().expand(4), **exact)
    torch.testing.assert_close(derived.witness(x, weights).grad(at), closed.grad(at), **exact)
    torch.testing.assert_close(derived.velocity(x, at, weights), -closed.grad(at), **exact)
    torch.testing.assert_close(derived.velocity(x, weights=weights), -closed.grad(x), **exact)


@pytest.mark.parametrize("name", CASES)
def test_the_law(name):
    derived, x = ForwardAlone(CASES[name]), points(5, seed=2).requires_grad_()
    weights = torch.arange(1, 6).double() / 15
    (slope,) = torch.autograd.grad(derived(x, weights), x)
    torch.testing.assert_close(slope, weights[:, None] * derived.witness(x, weights).grad(x.detach()), **exact)


def test_particles_of_weight_zero_move_too():
    divergence, x = CASES["mmd"], points(3, seed=2)
    weights = torch.tensor([0.5, 0.5, 0.0]).double()
    moved = ForwardAlone(divergence).velocity(x, weights=weights)
    torch.testing.assert_close(moved, divergence.velocity(x, weights=weights), **exact)


def test_events_of_any_shape():
    divergence = ForwardAlone(MMD(points(9, 12).reshape(9, 3, 2, 2), Gaussian(2.0)))
    x, at = points(4, 12, 2).reshape(4, 3, 2, 2), points(2, 12, 3).reshape(2, 3, 2, 2)
    for args in ((x,), (x, at)):
        torch.testing.assert_close(divergence.velocity(*args), divergence.inner.velocity(*args), **exact)


def test_flows_take_it_with_noise_weights_and_jumps():
    x = points(8, seed=4) + 1
    for settings in ({"noise_injection": 0.2}, {"weights": torch.ones(8)}, {"moves": BirthDeath(0.5)}):
        pair = [
            flow(d, x, step_size=0.3, num_steps=5, generator=torch.Generator().manual_seed(0), **settings)
            for d in (CASES["mmd"], ForwardAlone(CASES["mmd"]))
        ]
        torch.testing.assert_close(pair[0].particles, pair[1].particles, **exact)


class Spread(Divergence):
    """F that knows no weights."""

    def forward(self, x, weights=None):
        return x.square().mean()


class Total(Divergence):
    """F whose witness is constant."""

    def forward(self, x, weights=None):
        return uniform(x, weights).sum()


def test_a_forward_without_weights_flows_and_has_no_witness():
    x = points(4)
    torch.testing.assert_close(Spread().velocity(x), -x)  # 4 dF/dx, F the mean of 8 squares
    with pytest.raises(InputError, match="forward does not use them"):
        Spread().witness(x)(x)


def test_a_constant_witness_moves_nothing():
    x = points(4)
    assert torch.equal(Total().velocity(x), torch.zeros_like(x))
    assert torch.equal(Total().velocity(x, x[:2]), torch.zeros_like(x[:2]))


def test_a_divergence_without_forward_says_so():
    with pytest.raises(InputError, match="Divergence has no F: it needs forward"):
        Divergence()(points(3))


def test_a_forward_that_is_differentiable_once_moves_particles_but_not_off_them():
    sliced = SlicedMMD(points(9), 5, redraw=False, generator=torch.Generator().manual_seed(0))

    class Sum(Divergence):
        def forward(self, x, weights=None):
            return sliced(x, weights) + CASES["mmd"](x, weights)

    x = points(4, seed=2)
    torch.testing.assert_close(Sum().velocity(x), sliced.velocity(x) + CASES["mmd"].velocity(x), **exact)
    assert Sum().witness(x)(x).shape == (4,)
    with pytest.raises(InputError, match="forward: must be differentiable twice"):
        Sum().velocity(x, x + 1)
