"""Laws of every divergence, in float64: the witness is the first variation, and the flow's velocity is minus its gradient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.strategies import DISTANCES, DIVERGENCES, EVENTS, divergences, samples

every = pytest.mark.parametrize("name", DIVERGENCES)


def draw_case(data, name, event, **kwargs):
    target = data.draw(samples(event))
    return divergences(target)[name], data.draw(samples(event, **kwargs)), target


@every
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_n_times_the_gradient_of_f_is_the_witness_gradient(name, data, event):
    divergence, x, _ = draw_case(data, name, event)
    z = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(divergence(z), z)
    torch.testing.assert_close(len(x) * grad, divergence.witness(x).grad(x), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(divergence.velocity(x), -divergence.witness(x).grad(x), rtol=1e-9, atol=1e-9)


@every
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_witness_gradient_is_the_gradient_of_the_witness(name, data, event):
    divergence, x, _ = draw_case(data, name, event)
    at = x[:1] + 0.37
    witness = divergence.witness(x)
    z = at.clone().requires_grad_()
    (grad,) = torch.autograd.grad(witness(z).sum(), z)
    torch.testing.assert_close(witness.grad(at), grad, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(divergence.velocity(x, at), -grad, rtol=1e-7, atol=1e-7)


@every
@given(data=st.data())
def test_mixture_derivative(name, data):
    """d/de F((1-e) nu + e rho) at 0 equals E_rho f - E_nu f; the mixture is made of repeated points, e = 1/(N+1)."""
    divergence, x, _ = draw_case(data, name, (2,), max_points=3)
    rho = data.draw(samples((2,), max_points=1))
    witness = divergence.witness(x)
    expected = witness(rho).mean() - witness(x).mean()
    (e1, s1), (e2, s2) = (_mixture_slope(divergence, x, rho, copies) for copies in (100, 200))
    slope = (e1 * s2 - e2 * s1) / (e1 - e2)  # extrapolated to e = 0; exact where F is quadratic in the measure
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-4)


def _mixture_slope(divergence, x, rho, copies):
    mixture = torch.cat([x.repeat(copies, 1), rho])
    epsilon = 1 / len(mixture)
    return epsilon, (divergence(mixture) - divergence(x)) / epsilon


@every
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_permutation_equivariance(name, data, event):
    divergence, x, _ = draw_case(data, name, event)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(divergence(x[order]), divergence(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(divergence.velocity(x[order]), divergence.velocity(x)[order], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", DISTANCES)
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_target_is_stationary_and_at_distance_zero(name, data, event):
    divergence, x, target = draw_case(data, name, event)
    assert divergence(x) >= -1e-9
    torch.testing.assert_close(divergence(target), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(divergence.velocity(target), torch.zeros_like(target), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", DISTANCES)
@given(data=st.data())
def test_repeating_every_particle_changes_nothing(name, data):
    """F depends on the measure, not on how many points carry it."""
    divergence, x, _ = draw_case(data, name, (3,))
    twice = torch.cat([x, x])
    torch.testing.assert_close(divergence(twice), divergence(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(divergence.velocity(twice)[: len(x)], divergence.velocity(x), rtol=1e-7, atol=1e-7)
