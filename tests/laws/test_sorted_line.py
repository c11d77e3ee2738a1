"""Laws of sums on the line by sorting: those of the plain reference in float64, for any points, weights and bandwidths."""

import pytest
import torch
from hypothesis import example, given, strategies as st

from mmdflow import MMD, Gaussian, Laplace, Matern, Riesz, ops
from mmdflow.ops import reference, sorted_line

KERNELS = {
    "riesz": lambda b: Riesz(),
    "laplace": Laplace,
    "matern12": lambda b: Matern(0.5, b),
    "matern32": lambda b: Matern(1.5, b),
    "matern52": lambda b: Matern(2.5, b),
}
kernels = pytest.mark.parametrize("name", KERNELS)


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    """Sort however few points there are."""
    monkeypatch.setattr(sorted_line, "FEW", 0)


def sums(kernel, z, points, weights):
    with ops.backend("compiled"):
        return ops.kernel_sum(kernel, z, points, weights), ops.kernel_sum_grad(kernel, z, points, weights)


def check(kernel, z, points, weights, tolerance):
    """Compare with the reference, relative to the sums of the absolute terms: signed weights may cancel."""
    exact = [t.double() for t in (z, points, weights)]
    sizes = kernel(exact[0], exact[1]).abs() @ exact[2].abs()
    steep = torch.stack(
        [reference.kernel_sum_grad(kernel, q[None], exact[1], w) for q, w in zip(exact[0], _steep(exact), strict=True)]
    )
    value, slope = sums(kernel, z, points, weights)
    tiny = 1e-280 if z.dtype == torch.float64 else 1e-36  # the kernels end above the least normal number
    assert value.dtype == slope.dtype == z.dtype
    assert slope.shape == z.shape
    assert bool(((value - reference.kernel_sum(kernel, *exact)).abs() <= tolerance * sizes + tiny).all())
    error = (slope - reference.kernel_sum_grad(kernel, *exact)).abs().flatten()
    assert bool((error <= tolerance * steep.abs().flatten() + tiny).all())


def _steep(exact):
    """Return for every z the weights whose terms of the slope all have one sign."""
    z, points, weights = exact
    return weights.abs() * torch.sign(points[:, 0] - z)


@st.composite
def measures(draw):
    """Draw points on the line and weights: with ties or without, near the origin or far from it, on scales from 1e-8 to 1e8."""
    n, m = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    coordinates = torch.randn(n + m, 1, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        coordinates = (2 * coordinates).round()  # ties within and between the clouds
    scale = 10.0 ** draw(st.integers(-8, 8))
    coordinates = scale * (coordinates + draw(st.sampled_from([0.0, -3.0, 1e6])))
    weights = torch.randn(m, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        weights = weights.abs()
    among = draw(st.booleans())  # z are among the points, or not
    points = coordinates[n:] if not among or m < n else torch.cat([coordinates[:n], coordinates[2 * n :]])[:m]
    return coordinates[:n], points, weights[: len(points)], scale


@kernels
@given(measures(), st.sampled_from([1e-8, 1e-3, 0.3, 1.0, 30.0, 1e8]))
def test_sums_are_those_of_the_reference(name, measure, bandwidth):
    z, points, weights, scale = measure
    kernel = KERNELS[name](bandwidth * scale)
    check(kernel, z, points, weights, 1e-11)
    check(kernel, z.float(), points.float(), weights.float(), 3e-7)


@kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_points_with_ties_and_gaps(name, dtype, generator):
    z = torch.randn(400, 1, generator=generator, dtype=dtype)
    z[100:130] = z[0]
    z[-1] = 1e6  # a gap of millions of bandwidths
    points = torch.cat([z, torch.randn(700, 1, generator=generator, dtype=dtype).round(decimals=1)])
    weights = torch.randn(1100, generator=generator, dtype=dtype)
    for bandwidth in (1e-5, 0.2, 1e4):
        check(KERNELS[name](bandwidth), z, points, weights, 1e-11 if dtype == torch.float64 else 3e-7)


@kernels
def test_equally_spaced_points_keep_their_digits(name):
    """The same rounded factor thousands of times in a row must not add up."""
    points = torch.linspace(0, 1, 3001, dtype=torch.float64)[:, None]
    check(KERNELS[name](5.0), points[::100].clone(), points, torch.ones(3001, dtype=torch.float64), 1e-13)


@kernels
def test_a_far_cluster_keeps_its_relative_accuracy(name):
    """exp(-60) of another cluster is small, and right."""
    z, points = torch.tensor([[0.0]], dtype=torch.float64), torch.tensor([[60.0], [60.5], [61.0]], dtype=torch.float64)
    check(KERNELS[name](1.0), z, points, torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64), 1e-13)


@kernels
def test_gradients_reach_particles_points_and_weights(name, generator):
    kernel = KERNELS[name](0.7)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((6, 1), (8, 1), (8,))]
    gradients = {}
    for backend in ("compiled", "reference"):
        inputs = [t.clone().requires_grad_() for t in tensors]
        with ops.backend(backend):
            total = ops.kernel_sum(kernel, *inputs).square().sum()
            first = torch.autograd.grad(total, inputs, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs) if name != "riesz" else ()
        gradients[backend] = (*first, *second)
    for quick, plain in zip(gradients["compiled"], gradients["reference"], strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-11, atol=1e-12)


def test_mixtures_and_the_divergence_go_through_the_sweep(generator):
    x, y = (torch.randn(n, 1, generator=generator, dtype=torch.float64) for n in (9, 14))
    kernel = Laplace(0.5) + 2 * Matern(1.5, 2.0) + Riesz()
    values = {}
    for backend in ("compiled", "reference"):
        with ops.backend(backend):
            divergence = MMD(y, kernel)
            values[backend] = divergence(x), divergence.velocity(x), divergence.velocity(x, at=y)
    for quick, plain in zip(values["compiled"], values["reference"], strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-11, atol=1e-13)


@kernels
def test_what_is_not_finite_stays_so(name):
    z = torch.tensor([[0.0], [float("nan")], [2.0]], dtype=torch.float64)
    value, slope = sums(KERNELS[name](1.0), z, z, torch.ones(3, dtype=torch.float64))
    assert not bool(value.isfinite().any())
    assert not bool(slope[1].isfinite())


def test_large_sums_on_the_line_are_sorted_and_others_are_not(monkeypatch, generator):
    monkeypatch.undo()
    taken = []
    add = sorted_line.add
    monkeypatch.setattr(sorted_line, "add", lambda *a: (taken.append(len(a[1])), add(*a)))
    line, plane = torch.randn(600, 1, generator=generator), torch.randn(600, 2, generator=generator)
    weights = torch.full((600,), 1 / 600)
    for kernel, points in ((Laplace(1.0), plane), (Gaussian(1.0), line), (Riesz(0.5), line), (Laplace(1.0), line[:99])):
        ops.kernel_sum_grad(kernel, points, points, weights[: len(points)])
    assert taken == []
    ops.kernel_sum_grad(Laplace(1.0), line, line, weights)
    assert taken == [600]


@example(3)
@given(st.integers(1, 5))
def test_all_points_in_one_place(count):
    points = torch.full((count, 1), 2.5, dtype=torch.float64)
    for make in KERNELS.values():
        value, slope = sums(make(1.0), points, points, torch.ones(count, dtype=torch.float64))
        torch.testing.assert_close(value, make(1.0)(points, points).sum(1))
        assert bool((slope == 0).all())
