"""Laws of the compiled backend: the sums of the reference, in float64, for every radial kernel on both of its paths."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from mmdflow import MMD, Deep, Gaussian, InputError, Linear, Polynomial, Riesz, ops
from mmdflow.divergences.functional import mmd2
from mmdflow.ops import dispatch, moments, numba_sums, reference, threads
from tests.laws.strategies import KERNELS, RADIAL, samples, squares
from tests.laws.test_kernels import CLUSTERS, far_clusters, relative_error

#: The fused loop with one dimension, with some, and the product path; an event of images too.
EVENTS = [(1,), (3,), (20,), (2, 3, 3)]
radial = pytest.mark.parametrize("name", RADIAL)


def draw_sum(data, event):
    z, points = data.draw(samples(event)), data.draw(samples(event))
    if data.draw(st.booleans()):
        points[0] = z[0]  # a pair at distance 0
    weights = torch.randn(len(points), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return z, points, weights


@radial
@given(data=st.data(), event=st.sampled_from(EVENTS))
def test_compiled_sums_are_those_of_the_reference(name, data, event):
    kernel, (z, points, weights) = RADIAL[name], draw_sum(data, event)
    with ops.backend("compiled"):
        value, slope = (sum_(kernel, z, points, weights) for sum_ in (ops.kernel_sum, ops.kernel_sum_grad))
    torch.testing.assert_close(value, reference.kernel_sum(kernel, z, points, weights), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope, reference.kernel_sum_grad(kernel, z, points, weights), rtol=1e-8, atol=1e-8)
    single = [t.float() for t in (z, points, weights)]
    with ops.backend("compiled"):
        value32, slope32 = (sum_(kernel, *single) for sum_ in (ops.kernel_sum, ops.kernel_sum_grad))
    torch.testing.assert_close(value32.double(), value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slope32.double(), slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [*(name for name in RADIAL if RADIAL[name].smooth), "mixture"])
@given(data=st.data(), event=st.sampled_from([(3,), (1, 3)]))
def test_compiled_mixed_derivatives_are_those_of_the_reference(name, data, event):
    """At coinciding points too, of which some draws hold pairs."""
    kernel, (z, points, _) = KERNELS[name], draw_sum(data, event)
    vectors = torch.randn(points.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = reference.tangent_sum_grad(kernel, z, points, vectors)
    with ops.backend("compiled"):
        result = ops.tangent_sum_grad(kernel, z, points, vectors)
        single = ops.tangent_sum_grad(kernel, z.float(), points.float(), vectors.float())
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_changed_second_derivative_is_not_summed_by_the_parents_profile():
    class Flat(Gaussian):
        def curvature(self, r2):
            return 0 * r2

    z, vectors = torch.randn(5, 2), torch.ones(5, 2)
    with ops.backend("compiled"):
        result = ops.tangent_sum_grad(Flat(1.0), z, z, vectors)
    torch.testing.assert_close(result, reference.tangent_sum_grad(Flat(1.0), z, z, vectors))


@radial
@given(data=st.data(), event=st.sampled_from([(3,), (20,)]))
def test_compiled_derivatives_are_those_of_the_reference(name, data, event):
    """In the points, the other points and the weights, once and twice."""
    kernel, inputs = RADIAL[name], draw_sum(data, event)
    smooth = kernel.smooth
    results = []
    for backend in ("compiled", "reference"):
        leaves = [t.clone().requires_grad_() for t in inputs]
        with ops.backend(backend):
            total = ops.kernel_sum(kernel, *leaves).square().sum()
            first = torch.autograd.grad(total, leaves, retain_graph=smooth)
            second = torch.autograd.grad(total, leaves, create_graph=True)[0].square().sum() if smooth else None
            results.append([total, *first, *(torch.autograd.grad(second, leaves) if smooth else ())])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


@radial
@given(data=st.data(), event=st.sampled_from([(3,), (20,)]))
def test_compiled_mmd_obeys_the_laws(name, data, event):
    """dF/dx_i = w_i grad f(x_i), dF/dw_i = f(x_i) up to a constant, F equals the reference's; twice differentiable if smooth."""
    kernel = RADIAL[name]
    target, x = data.draw(samples(event)), data.draw(samples(event))
    weights = torch.rand(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weights = weights / weights.sum()
    f = MMD(target, kernel)
    expected = f(x, weights)
    z, w = x.clone().requires_grad_(), weights.clone().requires_grad_()
    with ops.backend("compiled"):
        value = f(z, w)
        witness = f.witness(x, weights)
        by_x, by_weights = torch.autograd.grad(value, (z, w), retain_graph=True)
        grad, at_x = witness.grad(x), witness(x)
        torch.testing.assert_close(f(x, weights), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_x, weights[:, None] * grad, rtol=1e-7, atol=1e-7)
    difference = by_weights - at_x
    torch.testing.assert_close(difference, difference.mean().expand(len(x)), rtol=1e-7, atol=1e-7)
    if kernel.smooth:
        again = torch.autograd.grad(value, (z, w), create_graph=True)
        torch.testing.assert_close(again[0], by_x, rtol=1e-7, atol=1e-7)
        hessian = torch.autograd.grad(again[0].square().sum(), z)[0]
        reference_grad = torch.autograd.grad(f(z, w), z, create_graph=True)[0]
        torch.testing.assert_close(hessian, torch.autograd.grad(reference_grad.square().sum(), z)[0])


def test_large_sums_take_the_compiled_backend_and_small_ones_do_not(monkeypatch):
    taken = []
    monkeypatch.setattr(dispatch, "sums", lambda _, z, *args, **flags: taken.append(flags) or [z[:, 0]])
    side = int(dispatch.SMALL**0.5)
    for n in (side - 1, side):
        ops.kernel_sum(Gaussian(1.0), torch.zeros(n, 2), torch.zeros(n, 2), torch.ones(n))
    assert taken == [{"values": True, "slopes": False}]
    with ops.backend("reference"):
        ops.kernel_sum(Gaussian(1.0), torch.zeros(side, 2), torch.zeros(side, 2), torch.ones(side))
    assert len(taken) == 1


def test_what_only_the_reference_can_do_goes_there():
    x = torch.randn(4, 3, dtype=torch.float64)
    learned = Gaussian(torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64)))
    with ops.backend("compiled"):
        assert ops.compiled(Gaussian(1.0), x, x) is not None
        assert ops.compiled(learned, x, x) is None
        assert ops.compiled(Gaussian(1.0), x.half(), x.half()) is None
        assert ops.compiled(Gaussian(1.0) * Riesz(), x, x) is None
        ops.kernel_sum(learned, x, x, torch.ones(4, dtype=torch.float64)).sum().backward()
        z = x.clone().requires_grad_()
        slope = ops.kernel_sum_grad(Gaussian(1.0), z, x, torch.ones(4, dtype=torch.float64))
        assert slope.requires_grad  # as the reference's
    assert learned.bandwidth.grad != 0
    for bandwidth, dtype in ((1e-200, torch.float64), (1e-20, torch.float32)):  # 1 / bandwidth^2 leaves the range
        assert Gaussian(bandwidth).compiled_term(3, dtype) is None
    assert Gaussian(1e-20).compiled_term(3, torch.float64) is not None


def test_kernels_made_of_kernels_send_their_parts_to_the_compiled_backend():
    x, y = torch.randn(5, 20, dtype=torch.float64), torch.randn(7, 20, dtype=torch.float64)
    weights = torch.randn(7, dtype=torch.float64)
    for kernel in (0.3 * Gaussian(1.0) + Linear(), Deep(Gaussian(1.0) + Riesz(), squares)):
        with ops.backend("compiled"):
            value, slope = (sum_(kernel, x, y, weights) for sum_ in (ops.kernel_sum, ops.kernel_sum_grad))
        torch.testing.assert_close(value, reference.kernel_sum(kernel, x, y, weights))
        torch.testing.assert_close(slope, reference.kernel_sum_grad(kernel, x, y, weights))


@pytest.mark.parametrize(
    "kernel", [Polynomial(1), Polynomial(2, 0.5, 0.0), Polynomial(3, 2.0, 1.5)], ids=["1", "2", "3"]
)
@pytest.mark.parametrize("event", [(1,), (2, 2)])
def test_moments_sum_polynomials_like_the_reference(kernel, event, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    z, points = (torch.randn(n, *event, dtype=torch.float64, generator=generator) for n in (7, 150))
    weights = torch.randn(150, dtype=torch.float64, generator=generator)
    assert moments.pays(kernel, points)
    assert not moments.pays(kernel, points[:1])
    expected = reference.kernel_sum(kernel, z, points, weights), reference.kernel_sum_grad(kernel, z, points, weights)
    for block in (moments.BLOCK, 30):
        monkeypatch.setattr(moments, "BLOCK", block)
        leaf = z.clone().requires_grad_()
        value = ops.kernel_sum(kernel, leaf, points, weights)
        torch.testing.assert_close(value, expected[0])
        torch.testing.assert_close(torch.autograd.grad(value.sum(), leaf)[0], expected[1])
        torch.testing.assert_close(ops.kernel_sum_grad(kernel, z, points, weights), expected[1])


def test_functional_transforms_work_whatever_the_backend():
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    f = MMD(y, Gaussian(1.0))
    transforms = (
        lambda: torch.func.grad(f)(x),
        lambda: torch.func.hessian(f)(x),
        lambda: torch.func.grad(lambda z: mmd2(z, y, Gaussian(1.0)))(x),
    )
    for transform in transforms:
        expected = transform()
        with ops.backend("compiled"):
            torch.testing.assert_close(transform(), expected)


def test_weights_that_depend_on_the_particles_are_differentiated_once():
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    f = MMD(y, Gaussian(1.0))
    z = x.clone().requires_grad_()

    def gradient(**settings):
        return torch.autograd.grad(f(z, torch.softmax(z[:, 0], 0)), z, **settings)[0]

    expected = gradient()
    with ops.backend("compiled"):
        torch.testing.assert_close(gradient(), expected)
        torch.testing.assert_close(gradient(create_graph=True), expected)


def test_bandwidths_that_are_computed_keep_their_gradient():
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    gradients = []
    for backend in ("compiled", "reference"):
        with ops.backend(backend):
            gradients.append(torch.autograd.grad(MMD(y, Gaussian(logarithm.exp()))(x), logarithm)[0])
    assert gradients[0] == gradients[1] != 0


@pytest.mark.usefixtures("unchecked")
def test_sums_of_other_shapes_are_refused():
    x, y = torch.randn(4, 3), torch.randn(5, 2)
    with ops.backend("compiled"):
        for z, points in ((x, y), (torch.randn(4, 2).double(), y)):
            with pytest.raises(RuntimeError):
                ops.kernel_sum(Gaussian(1.0), z, points, torch.ones(5))
        for bad in (torch.ones(2), torch.ones(5, dtype=torch.float64)):
            with pytest.raises(InputError, match=r"weights are .*: must be torch.float32 \[5\]"):
                ops.kernel_sum(Gaussian(1.0), torch.randn(4, 2), y, bad)


@pytest.mark.parametrize("name", ["laplace", "matern-5/2", "inverse-multiquadric", "riesz-1", "gaussian"])
def test_pairs_whose_squared_distance_overflows(name):
    x = torch.zeros(1, 2)
    with ops.backend("compiled"):
        value = ops.kernel_sum(RADIAL[name], x, x + 3e19, torch.ones(1))
    right = pytest.approx(-3e19 * math.sqrt(2), rel=1e-6) if name == "riesz-1" else pytest.approx(0.0, abs=1e-18)
    assert float(value) == right


@pytest.mark.parametrize("dim", [2, 20])
@pytest.mark.parametrize("kernel", [Gaussian(1.0), Riesz()], ids=["gaussian", "riesz"])
def test_what_is_not_finite_stays_visible(kernel, dim):
    x, y = torch.randn(3, dim), torch.randn(4, dim)
    x[1, 0] = torch.nan
    with ops.backend("compiled"):
        value = ops.kernel_sum(kernel, x, y, torch.ones(4))
        slope = ops.kernel_sum_grad(kernel, x, y, torch.ones(4))
    assert value.isnan().tolist() == [False, True, False]
    assert slope.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dim", [2, 40])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_tight_clusters_keep_their_accuracy_in_float32(dim, offset):
    """Two clusters far apart, pairs close together: a product of norms alone would be wrong by large factors."""
    generator = torch.Generator().manual_seed(0)
    near = 1e-2 * torch.randn(200, dim, generator=generator)
    x = torch.cat([near, near.flip(0) + 10]) + offset
    weights = torch.full((400,), 1 / 400)
    for kernel in (Gaussian(1e-2 * dim**0.5), Riesz()):
        exact = reference.kernel_sum_grad(kernel, x.double(), x.double(), weights.double())
        with ops.backend("compiled"):
            got = ops.kernel_sum_grad(kernel, x, x, weights)
        assert (got - exact).norm() < 2e-3 * exact.norm() * (1 + offset / 100)


@radial
@pytest.mark.parametrize(("dim", "gap", "offset", "width"), CLUSTERS)
def test_compiled_sums_over_clusters_far_apart_keep_their_digits(name, dim, gap, offset, width):
    if name in ("gaussian-normalized", "gaussian-tensor") and (dim > 60 or name == "gaussian-tensor"):
        return
    kernel, (x, weights) = RADIAL[name], far_clusters(dim, gap, offset, width)
    double, exact_weights = x.double(), weights[0].double()
    with ops.backend("compiled"):
        values, slopes = (sum_(kernel, x, x, weights[0]) for sum_ in (ops.kernel_sum, ops.kernel_sum_grad))
    assert relative_error(values, reference.kernel_sum(kernel, double, double, exact_weights)) < 2e-5
    assert relative_error(slopes, reference.kernel_sum_grad(kernel, double, double, exact_weights)) < 2e-4


@pytest.mark.parametrize("dim", [3, 24])
def test_threads_do_not_change_sums(dim):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, dim, generator=generator), torch.randn(1500, dim, generator=generator)
    weights = torch.randn(1500, generator=generator)
    found = []
    for workers in (1, 2):
        torch.set_num_threads(workers)
        try:
            with ops.backend("compiled"):
                found.append(ops.kernel_sum_grad(Riesz(), x, y, weights))
        finally:
            torch.set_num_threads(1)
    exact = reference.kernel_sum_grad(Riesz(), x.double(), y.double(), weights.double())
    for got in found:
        assert (got - exact).norm() < 1e-6 * exact.norm() * dim**0.5


@pytest.mark.parametrize("before", [False, True])
def test_numbers_below_the_normal_ones_are_flushed_in_compiled_loops_alone(before):
    """Tails of narrow kernels lie there; what the process does with such numbers elsewhere stays as it is."""
    small = torch.full((1,), 2e-38)
    x = torch.linspace(0, 20, 40)[:, None].repeat(1, 2)
    with ops.backend("reference"):
        expected = ops.kernel_sum_grad(Gaussian(1.0), x, x, torch.ones(40))
    torch.set_flush_denormal(before)
    try:
        with threads.flushing():
            assert float(small * 0.25) == 0
        assert (float(small * 0.25) == 0) == before
        with ops.backend("compiled"):
            result = ops.kernel_sum_grad(Gaussian(1.0), x, x, torch.ones(40))
        assert (float(small * 0.25) == 0) == before
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


def test_code_is_compiled_where_no_cache_can_be_written(monkeypatch):
    real = numba_sums.njit

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba_sums, "njit", njit)
    assert numba_sums.compiled(set())(lambda x: 2 * x)(21) == 42


def test_rows_are_covered_once_and_errors_come_through():
    seen = []
    threads.over_rows(lambda part: seen.extend(range(part.start, part.stop)), 10, 3)
    assert sorted(seen) == list(range(10))
    with pytest.raises(ZeroDivisionError):
        threads.over_rows(lambda part: 1 / 0, 4, 1)


def test_unknown_backend():
    with (
        pytest.raises(InputError, match="backend = 'cuda': must be one of auto, reference, compiled"),
        ops.backend("cuda"),
    ):
        pass
