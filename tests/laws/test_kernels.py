"""Laws of every kernel, in float64."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch.autograd.function import once_differentiable
from torch.autograd.functional import jacobian

from mmdflow.kernels import Gaussian, Kernel, derivatives
from tests.laws.strategies import EVENTS, FINITE, KERNELS, POSITIVE, RADIAL, SMOOTH, samples

kernels = pytest.mark.parametrize("name", KERNELS)


@kernels
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_gram_is_symmetric_and_diag_is_its_diagonal(name, data, event):
    x = data.draw(samples(event))
    gram = KERNELS[name](x, x)
    torch.testing.assert_close(gram, gram.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gram.diagonal(), KERNELS[name].diag(x), rtol=1e-9, atol=1e-9)


@kernels
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_analytic_gradient_equals_autograd(name, data, event):
    kernel = KERNELS[name]
    x, y = data.draw(samples(event)), data.draw(samples(event))
    weights = torch.randn(len(x), len(y), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((kernel(z, y) * weights).sum(), z)
    torch.testing.assert_close(kernel.grad(x, y, weights), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        kernel.grad(x, y, weights[:1]), kernel.grad(x, y, weights[:1].expand(len(x), -1)), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", POSITIVE)
@given(data=st.data())
def test_gram_is_positive_semidefinite(name, data):
    x = data.draw(samples((3,)))
    gram = KERNELS[name](x, x)
    assert torch.linalg.eigvalsh(gram)[0] > -1e-9 * gram.diagonal().abs().max()


@pytest.mark.parametrize("name", [n for n in KERNELS if n.startswith("riesz")])
@given(data=st.data())
def test_riesz_is_conditionally_positive(name, data):
    x = data.draw(samples((3,), min_points=2))
    c = torch.randn(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    c = c - c.mean()
    assert c @ KERNELS[name](x, x) @ c > -1e-9


@pytest.mark.parametrize("name", RADIAL)
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_radial_kernels_are_translation_invariant(name, data, event):
    x, y = data.draw(samples(event)), data.draw(samples(event))
    torch.testing.assert_close(KERNELS[name](x + 3, y + 3), KERNELS[name](x, y), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", RADIAL)
def test_radial_gradient_at_coincidence_is_zero(name):
    for dim in (2, 30):
        x = torch.randn(1, dim, dtype=torch.float64) + 5
        points = x.repeat(3, 1)
        assert (KERNELS[name].grad(x, points, torch.ones(1, 3).double()) == 0).all()


@pytest.mark.parametrize("name", FINITE)
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_embedding_reproduces_the_gram_matrix(name, data, event):
    x, y = data.draw(samples(event)), data.draw(samples(event))
    kernel = KERNELS[name]
    torch.testing.assert_close(kernel.embed(x) @ kernel.embed(y).T, kernel(x, y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", RADIAL)
@pytest.mark.parametrize("dim", [2, 40])
def test_tight_clusters_far_from_the_origin_keep_their_accuracy_in_float32(name, dim):
    """Matrix-product distances lose everything here; ours must not."""
    generator = torch.Generator().manual_seed(0)
    x = (100 + 1e-2 * torch.randn(20, dim, generator=generator)).float()
    y = (100 + 1e-2 * torch.randn(30, dim, generator=generator)).float()
    exact = KERNELS[name](x.double(), y.double())
    torch.testing.assert_close(KERNELS[name](x, y).double(), exact, rtol=1e-4, atol=1e-7)
    weights = torch.ones(1, 30)
    gradient = KERNELS[name].grad(x.double(), y.double(), weights.double())
    error = (KERNELS[name].grad(x, y, weights).double() - gradient).norm() / gradient.norm()
    assert error < 2e-3, error


def far_clusters(dim, gap, offset=0.0, width=1.0):
    """Two clusters whose gap is that many times their width, in float32, and weights of both signs."""
    generator = torch.Generator().manual_seed(dim)
    x = width * torch.randn(40, dim, generator=generator) / dim**0.5
    x[20:] += gap * width / dim**0.5
    weights = torch.randn(1, 40, generator=generator)
    return x + offset, weights


def relative_error(value, exact):
    return float((value.double() - exact).norm() / exact.norm())


#: Dimension, gap between the clusters in widths, offset of both, width.
CLUSTERS = [(dim, 1e6, 0.0, 1.0) for dim in (2, 16, 17, 40, 100)]
CLUSTERS += [(30, 1e4, 1e3, 1.0), (30, 1e5, 0.0, 1e-3), (17, 100.0, -50.0, 0.5), (64, 0.0, 1e3, 2.0)]


@pytest.mark.parametrize("name", RADIAL)
@pytest.mark.parametrize(("dim", "gap", "offset", "width"), CLUSTERS)
def test_clusters_far_apart_keep_their_digits_in_float32(name, dim, gap, offset, width):
    """Norms and products cancel within a cluster: the points' own differences count there."""
    if name in ("gaussian-normalized", "gaussian-tensor") and (dim > 60 or name == "gaussian-tensor"):
        return  # its factor leaves float32; it holds a float64 tensor
    kernel, (x, weights) = RADIAL[name], far_clusters(dim, gap, offset, width)
    double, exact_weights = x.double(), weights.double()
    assert relative_error(kernel(x, x), kernel(double, double)) < 1e-5
    exact = kernel.grad(double, double, exact_weights)
    assert relative_error(kernel.grad(x, x, weights), exact) < 2e-4
    if kernel.smooth:
        vectors = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        for method in ("tangent", "tangent_grad"):
            exact = getattr(kernel, method)(double, double, vectors.double())
            assert relative_error(getattr(kernel, method)(x, x, vectors), exact) < 2e-4
    z, double = x.clone().requires_grad_(), double.requires_grad_()
    exact = torch.autograd.grad((kernel(double, double.detach()) * exact_weights).sum(), double)[0]
    assert relative_error(torch.autograd.grad((kernel(z, x) * weights).sum(), z)[0], exact) < 2e-4


@pytest.mark.parametrize("dim", [3, 30])
def test_points_all_far_apart_do_not_push_each_other(dim):
    """Each point meets itself alone: what its own pair rounds to is no force."""
    x = 1e6 * torch.randn(50, dim, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(1, 50)
    for kernel in (RADIAL["gaussian"], RADIAL["laplace"], RADIAL["matern-5/2"]):
        assert not kernel.grad(x, x, weights).any()


@pytest.mark.parametrize("name", SMOOTH)
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_mixed_derivatives_equal_autograd(name, data, event):
    kernel = KERNELS[name]
    x, y = data.draw(samples(event)), data.draw(samples(event))
    v = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(kernel.tangent(x, y, v), Kernel.tangent(kernel, x, y, v), rtol=1e-8, atol=1e-8)
    expected = Kernel.tangent_grad(kernel, x, y, v)
    torch.testing.assert_close(kernel.tangent_grad(x, y, v), expected, rtol=1e-8, atol=1e-8)
    mixed = kernel.mixed(x, y)
    torch.testing.assert_close(mixed, Kernel.mixed(kernel, x, y), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(torch.einsum("namb,mb->na", mixed, v.flatten(1)), expected.flatten(1))
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(kernel.tangent(z, y, v).sum(), z)
    torch.testing.assert_close(slope, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("many", [0, 10**6], ids=["many", "few"])
@pytest.mark.parametrize("name", SMOOTH)
def test_mixed_derivatives_of_many_and_of_few_are_those_of_pairs(name, many, monkeypatch, generator):
    monkeypatch.setattr(derivatives, "_MANY", many)
    monkeypatch.setattr(derivatives, "_mixed_of_many" if many else "_jacobian", None)  # which is not to be called
    kernel = KERNELS[name]
    x, y = (torch.randn(n, 2, dtype=torch.float64, generator=generator) for n in (3, 4))

    def of_pair(a, b):
        return jacobian(lambda b: jacobian(lambda a: kernel(a[None], b[None])[0, 0], a, create_graph=True), b)

    expected = torch.stack([torch.stack([of_pair(a, b) for b in y]) for a in x])
    torch.testing.assert_close(derivatives.mixed(kernel, x, y), expected.transpose(1, 2), rtol=1e-9, atol=1e-12)


def gaussian_slopes(grad, x, y):
    """Return the gradients in x and y of the sum of grad times a Gaussian kernel of bandwidth 1."""
    difference = x[:, None] - y
    pull = (grad * torch.exp(-difference.square().sum(-1) / 2))[..., None] * difference
    return -pull.sum(1), pull.sum(0)


class Slopes(torch.autograd.Function):
    """The gradients of a Gaussian kernel, with one derivative and no more, which looks at a number: no batch goes through it."""

    @staticmethod
    def forward(ctx, grad, x, y):
        ctx.save_for_backward(grad, x, y)
        return gaussian_slopes(grad, x, y)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        assert all(math.isfinite(grad.sum().item()) for grad in grads)
        with torch.enable_grad():
            given = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            return torch.autograd.grad(gaussian_slopes(*given), given, grads)


class Twice(torch.autograd.Function):
    """A Gaussian kernel with two derivatives and no more."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return torch.exp(-torch.cdist(x, y).square() / 2)

    @staticmethod
    def backward(ctx, grad):
        return Slopes.apply(grad, *ctx.saved_tensors)


@pytest.mark.parametrize("n", [2, 12])
def test_mixed_derivatives_of_a_function_that_allows_less(n, generator):
    """Neither a third derivative nor a batch of gradients: both quick ways are left, and one gradient after another is right."""
    x, y = (torch.randn(m, 2, dtype=torch.float64, generator=generator) for m in (3, n))
    torch.testing.assert_close(derivatives.mixed(Twice.apply, x, y), Gaussian(1.0).mixed(x, y))
    a, b = x.requires_grad_(), y.requires_grad_()
    values = Twice.apply(a, b)
    (slope,) = torch.autograd.grad(values.sum(), b, create_graph=True)
    assert derivatives._mixed_of_many(values, a, b, slope.flatten()) is None
    with pytest.raises(RuntimeError, match="Batching rule"):
        torch.autograd.grad(slope, a, torch.stack([slope.detach()] * 2), is_grads_batched=True)


@pytest.mark.parametrize("name", [n for n in SMOOTH if n in POSITIVE])
@given(data=st.data())
def test_mixed_derivatives_are_a_gram_matrix(name, data):
    """Coinciding points included: that is where the kernel's roughness shows."""
    x = data.draw(samples((2,), max_points=4))
    matrix = KERNELS[name].mixed(x, x).reshape(x.numel(), x.numel())
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-9)
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-8 * matrix.abs().max()
