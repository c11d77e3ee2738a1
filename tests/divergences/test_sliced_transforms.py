"""SlicedMMD under `torch.func`, pickled and copied."""

import copy
import pickle

import pytest
import torch

from mmdflow import Gaussian, Matern, RationalQuadratic, SlicedMMD

SETTINGS = {
    "riesz-1": {},
    "riesz-1.5": {"exponent": 1.5},
    "riesz-0.5": {"exponent": 0.5},
    "gaussian": {"kernel": Gaussian(1.0)},
    "matern": {"kernel": Matern(2.5, 1.0)},
    "rational": {"kernel": RationalQuadratic(1.0)},
    "optimized": {"directions": "optimized"},
    "binned": {"ranks": "binned"},
    "fixed": {"redraw": False},
}
every = pytest.mark.parametrize("name", SETTINGS)


def normal(n, *event, seed=0):
    return torch.randn(n, *event, generator=torch.Generator().manual_seed(seed))


def sliced(name):
    return SlicedMMD(normal(30, 3), 16, generator=torch.Generator().manual_seed(1), **SETTINGS[name])


def gradients(divergence, x, weights):
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    return torch.autograd.grad(divergence(x, weights), (x, weights))


@every
def test_derivatives_by_torch_func_are_those_of_autograd(name):
    f, x, weights = sliced(name), normal(20, 3, seed=1) + 1, torch.full((20,), 0.05)
    by_x, by_weights = gradients(f, x, weights)
    torch.testing.assert_close(torch.func.grad(f)(x), by_x)
    torch.testing.assert_close(torch.func.jacrev(f)(x), by_x)
    torch.testing.assert_close(torch.func.grad(f, argnums=1)(x, weights), by_weights)
    witness = f.witness(x)
    torch.testing.assert_close(torch.func.grad(lambda z: witness(z).sum())(x), witness.grad(x))


@every
def test_batches_by_vmap_are_one_after_the_other(name):
    f, batch = sliced(name), normal(4, 20, 3, seed=1)
    torch.testing.assert_close(torch.func.vmap(f)(batch), torch.stack([f(x) for x in batch]))
    slopes = torch.func.vmap(torch.func.grad(f))(batch)
    torch.testing.assert_close(slopes, torch.stack([torch.func.grad(f)(x) for x in batch]))
    last = torch.func.vmap(f, in_dims=2)(batch.movedim(0, 2))
    torch.testing.assert_close(last, torch.stack([f(x) for x in batch]))
    weights = torch.rand(4, 20, generator=torch.Generator().manual_seed(2)).softmax(1)
    by_weights = torch.func.vmap(f, in_dims=(None, 0))(batch[0], weights)
    torch.testing.assert_close(by_weights, torch.stack([f(batch[0], w) for w in weights]))
    witness = f.witness(batch[0])
    torch.testing.assert_close(torch.func.vmap(witness)(batch), torch.stack([witness(x) for x in batch]))


@every
def test_buffers_may_be_given_from_outside(name):
    f, x = sliced(name), normal(20, 3, seed=1)
    torch.testing.assert_close(torch.func.functional_call(f, dict(f.named_buffers()), (x,)), f(x))


@every
def test_a_second_derivative_is_an_error_not_0(name):
    f, x = sliced(name), normal(20, 3, seed=1)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.func.grad(lambda z: torch.func.grad(f)(z).sum())(x)
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(z), z, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        slope.sum().backward()
    (slope,) = torch.autograd.grad(f.witness(x)(z).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        slope.sum().backward()


@every
@pytest.mark.parametrize("of", [lambda f: pickle.loads(pickle.dumps(f)), copy.deepcopy])
def test_copies_go_on_alike(name, of):
    """The same numbers, and the same directions afterwards: the generator goes along."""
    f, x = sliced(name), normal(20, 3, seed=1)
    copied = of(f)
    for _ in range(3):
        assert torch.equal(copied(x), f(x))
        assert torch.equal(copied.velocity(x), f.velocity(x))
