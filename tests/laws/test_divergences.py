"""Laws of every divergence, in float64: the witness is the first variation, and the flow's velocity is minus its gradient."""

import pytest
import torch
from hypothesis import given, strategies as st

from mmdflow.divergences.adaptive import RULES
from tests.laws.strategies import DISTANCES, DIVERGENCES, EVENTS, FUNCTIONALS, divergence, samples

every = pytest.mark.parametrize("name", DIVERGENCES)


def draw_case(data, name, event, **kwargs):
    target = data.draw(samples(event))
    return divergence(name, target), data.draw(samples(event, **kwargs)), target


@every
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_n_times_the_gradient_of_f_is_the_witness_gradient(name, data, event):
    f, x, _ = draw_case(data, name, event)
    z = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(f(z), z)
    torch.testing.assert_close(len(x) * grad, f.witness(x).grad(x), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(f.velocity(x), -f.witness(x).grad(x), rtol=1e-9, atol=1e-9)


@every
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_witness_gradient_is_the_gradient_of_the_witness(name, data, event):
    f, x, _ = draw_case(data, name, event)
    at = x[:1] + 0.37
    witness = f.witness(x)
    z = at.clone().requires_grad_()
    (grad,) = torch.autograd.grad(witness(z).sum(), z)
    torch.testing.assert_close(witness.grad(at), grad, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(f.velocity(x, at), -grad, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", FUNCTIONALS)
@given(data=st.data())
def test_mixture_derivative(name, data):
    """d/de F((1-e) nu + e rho) at 0 equals E_rho f - E_nu f."""
    f, x, _ = draw_case(data, name, (2,), max_points=3)
    rho = data.draw(samples((2,), max_points=1))
    witness = f.witness(x)
    expected = witness(rho).mean() - witness(x).mean()
    s1, s2 = (_mixture_slope(f, x, rho, epsilon) for epsilon in (2e-3, 1e-3))
    slope = 2 * s2 - s1  # extrapolated to e = 0; exact where F is quadratic in the measure
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-4)


def _mixture_slope(f, x, rho, epsilon):
    weights = torch.cat([x.new_full((len(x),), (1 - epsilon) / len(x)), rho.new_full((len(rho),), epsilon / len(rho))])
    return (f(torch.cat([x, rho]), weights) - f(x)) / epsilon


@every
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_weighted_particles_obey_both_laws(name, data, event):
    """dF/dx_i = w_i grad f(x_i), and dF/dw_i = f(x_i) up to a constant."""
    f, x, _ = draw_case(data, name, event)
    weights = draw_weights(data, len(x))
    z, w = x.clone().requires_grad_(), weights.clone().requires_grad_()
    by_x, by_weights = torch.autograd.grad(f(z, w), (z, w))
    witness = f.witness(x, weights)
    expected = weights.reshape(-1, *([1] * len(event))) * witness.grad(x)
    torch.testing.assert_close(by_x, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(f.velocity(x, weights=weights), -witness.grad(x), rtol=1e-9, atol=1e-9)
    if not name.startswith("adaptive") or len(x) == 1:
        difference = by_weights - witness(x)
        torch.testing.assert_close(difference, difference.mean().expand(len(x)), rtol=1e-7, atol=1e-7)


#: Repeating the target changes which points are landmarks, and the rules of adaptive bandwidths look at the points only.
REPEATABLE = [n for n in DIVERGENCES if n not in ("drmmd-landmarks", *(f"adaptive-{rule}" for rule in RULES))]


@pytest.mark.parametrize("name", REPEATABLE)
@given(data=st.data())
def test_weights_stand_for_repeated_points(name, data):
    """F of points repeated 1, 2, ... times is that of the points with weights 1, 2, ..., for particles and for the target."""
    target, x = data.draw(samples((2,), max_points=3)), data.draw(samples((2,), max_points=3))
    times_x, times_y = torch.arange(1, len(x) + 1), torch.arange(1, len(target) + 1)
    weighted = divergence(name, target, shares(times_y))
    plain = divergence(name, target.repeat_interleave(times_y, 0))
    value = weighted(x, shares(times_x))
    if "adaptive" in name:
        times_x = torch.ones_like(times_x)
        value = weighted(x)
    repeated = x.repeat_interleave(times_x, 0)
    torch.testing.assert_close(plain(repeated), value, rtol=1e-7, atol=1e-7)
    velocity = weighted.velocity(x, weights=shares(times_x))
    torch.testing.assert_close(plain.velocity(x=repeated, at=x), velocity, rtol=1e-6, atol=1e-7)


def shares(times):
    return times.double() / times.sum()


def draw_weights(data, n):
    weights = torch.tensor(data.draw(st.lists(st.floats(0.1, 1), min_size=n, max_size=n)), dtype=torch.float64)
    return weights / weights.sum()


@every
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_permutation_equivariance(name, data, event):
    f, x, _ = draw_case(data, name, event)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(f(x[order]), f(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(f.velocity(x[order]), f.velocity(x)[order], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", DISTANCES)
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_target_is_stationary_and_at_distance_zero(name, data, event):
    f, x, target = draw_case(data, name, event)
    assert f(x) >= -1e-9
    torch.testing.assert_close(f(target), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(f.velocity(target), torch.zeros_like(target), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", DISTANCES)
@given(data=st.data())
def test_repeating_every_particle_changes_nothing(name, data):
    """F depends on the measure, not on how many points carry it."""
    f, x, _ = draw_case(data, name, (3,))
    twice = torch.cat([x, x])
    torch.testing.assert_close(f(twice), f(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(f.velocity(twice)[: len(x)], f.velocity(x), rtol=1e-7, atol=1e-7)
