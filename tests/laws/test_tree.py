"""Laws of sums over trees: those of the plain reference in float64, for any kernel, points, weights and bandwidths."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from mmdflow import MMD, Gaussian, InverseMultiquadric, Laplace, Matern, RationalQuadratic, Riesz, flow, ops
from mmdflow.kernels.profiles import Decay, Exponential, Power, Term
from mmdflow.ops import chebyshev, fast, reference, tree
from mmdflow.ops.tree import Tree

KERNELS = {
    "riesz": lambda b: Riesz(),
    "riesz(1/2)": lambda b: Riesz(0.5),
    "riesz(3/2)": lambda b: Riesz(1.5),
    "laplace": Laplace,
    "matern12": lambda b: Matern(0.5, b),
    "matern32": lambda b: Matern(1.5, b),
    "matern52": lambda b: Matern(2.5, b),
    "gaussian": Gaussian,
    "multiquadric": InverseMultiquadric,
    "rational": lambda b: RationalQuadratic(1.0, b),
}
#: Of each dimension: those that are tested there, one a kind of profile at least in the plane (each is compiled).
USED = {1: ["riesz(1/2)", "riesz(3/2)"], 2: list(KERNELS), 3: ["riesz", "laplace", "matern12", "matern32", "matern52"]}
dims = pytest.mark.parametrize("dim", [1, 2, 3])
kernels = pytest.mark.parametrize(("dim", "name"), [(dim, name) for dim, names in USED.items() for name in names])
#: A degree and its error, relative to all sums.
DEGREES = {1: (9, 1e-6), 2: (8, 1e-5), 3: (6, 3e-4)}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Split boxes of few points, and take trees however few points there are."""
    monkeypatch.setattr(tree, "CAPACITY", dict.fromkeys((1, 2, 3), 0))
    monkeypatch.setattr(tree, "LEAST_CAPACITY", 8)
    monkeypatch.setattr(fast, "LEAST", 0)
    monkeypatch.setattr(fast, "PAIR", 1e6)
    monkeypatch.setattr(ops.dispatch, "SMALL", 0)


def by_tree(kernel, x, y, weights, degree, single=False, together=False):
    term, of = kernel.compiled_term(x.shape[1], x.dtype), Tree.over(x, y, degree)
    value, slope = torch.zeros(len(x), dtype=torch.float64), torch.zeros(x.shape, dtype=torch.float64)
    for totals in [(value, slope)] if together else [(value, None), (None, slope)]:
        of.sums(term, weights, *totals, single=single)
    return value * term.value_factor, slope * term.slope_factor


def exact(kernel, z, points, weights):
    double = [t.double() for t in (z, points, weights)]
    return reference.kernel_sum(kernel, *double), reference.kernel_sum_grad(kernel, *double)


def error(result, truth):
    return float((result.double() - truth).norm() / truth.norm())


def heap(n, dim, generator, dtype=torch.float64):
    """Normal points, a third of them in a centre a thousand times denser along every axis."""
    points = torch.randn(n, dim, generator=generator, dtype=dtype)
    points[::3] = points[::3] * 1e-3 + 0.3
    return points


@kernels
def test_sums_are_those_of_the_reference(dim, name, generator):
    x, y = heap(150, dim, generator), heap(240, dim, generator) + 0.2
    weights, kernel = torch.rand(240, generator=generator, dtype=torch.float64), KERNELS[name](0.7)
    degree, tolerance = DEGREES[dim]
    for single in (False, True):
        results = by_tree(kernel, x, torch.cat([x, y])[:240], weights, degree, single)
        for result, truth in zip(results, exact(kernel, x, torch.cat([x, y])[:240], weights), strict=True):
            assert error(result, truth) < tolerance


@dims
def test_every_degree_leaves_less(dim, generator):
    kernel = KERNELS[USED[dim][0]](0.5)
    x, y = heap(100, dim, generator), heap(200, dim, generator)
    weights = torch.randn(200, generator=generator, dtype=torch.float64)
    truth = exact(kernel, x, y, weights)[1]
    errors = [error(by_tree(kernel, x, y, weights, degree)[1], truth) for degree in (2, 5, 8)]
    assert errors[0] > 8 * errors[1] > 64 * errors[2] > 0


#: Profiles that are 1 everywhere, of kinds that are compiled anyway.
CONSTANT = {1: Power(1.0, 0.0, 0.0, -1.0), 2: Exponential(-1e-300), 3: Decay(-1e-300, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)}


@dims
def test_every_pair_of_points_meets_once(dim, generator):
    """A kernel that is 1 everywhere counts the sources, whatever their weights' precision and the shape of the tree."""
    x, y = heap(130, dim, generator), heap(170, dim, generator)
    weights = torch.randint(1, 9, (170,), generator=generator).double()
    value = torch.zeros(130, dtype=torch.float64)
    Tree.over(x, y, 1).sums(Term(CONSTANT[dim], 1.0, 1.0), weights, value, None)
    torch.testing.assert_close(value, weights.sum().expand(130), rtol=1e-12, atol=0)


@dims
def test_dense_centres_are_split_and_met_by_expansions(dim, generator):
    of = Tree.over(heap(3000, dim, generator), heap(3000, dim, generator), 2)
    targets, sources = of.boxes[:, 2] - of.boxes[:, 1], of.boxes[:, 4] - of.boxes[:, 3]
    leaves = of.boxes[:, 6] == 0
    assert (targets + sources)[leaves].max() <= 8
    met = of.near[:, 1]
    near = (targets[of.near[:, 0]] * np.where(met < 0, len(of.basis.grid), sources[met])).sum()
    assert near < 3000 * 3**dim * 40  # pairs of points, of 9 million
    assert len(of.far) > 0
    assert (met < 0).any()
    assert len(of.local) > 0


@dims
@given(degree=st.integers(1, 5))
@settings(max_examples=5)
def test_bases_hold_their_polynomials(dim, degree):
    """Values at the nodes give coefficients, children's polynomials add up to the parent's, turns of axes leave the kernel."""
    of = chebyshev.basis(degree, dim)
    kept = of.powers[:, 3 - dim :]

    def polynomials(t):
        return np.prod(np.cos(kept[:, None, :] * np.arccos(np.clip(t, -1, 1))), -1)  # [P, points]

    at = np.random.default_rng(0).uniform(-1, 1, (7, dim))
    coefficients = np.random.default_rng(1).normal(size=len(kept))
    np.testing.assert_allclose(of.transform @ (coefficients @ polynomials(of.grid)), coefficients, atol=1e-12)
    for half, signs in zip(of.halves, itertools.product((-1, 1), repeat=dim), strict=True):
        np.testing.assert_allclose(half @ polynomials(at), polynomials((at + signs) / 2), atol=1e-12)


@given(data=st.data())
@settings(max_examples=30)
def test_any_sums_keep_the_tolerance(data):
    """Any kernel, other points than particles, weights of any sign, any place and scale, all extents in bandwidths."""
    dim = data.draw(st.sampled_from([1, 2, 3]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    scale = 10.0 ** data.draw(st.integers(-8, 8))
    offset = data.draw(st.sampled_from([0.0, 1.0, 1e4]))
    n, m = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 60))
    z, points = (scale * (heap(k, dim, generator) + offset) for k in (n, m))
    weights = torch.randn(m, generator=generator, dtype=torch.float64)
    bandwidth = scale * data.draw(st.sampled_from([0.03, 1.0, 30.0, 1e4]))
    kernel = KERNELS[data.draw(st.sampled_from(USED[dim]))](bandwidth)
    tolerance = data.draw(st.sampled_from([1e-2, 1e-4]))
    with ops.backend("fast", tolerance=tolerance) as report:
        results = ops.kernel_sum(kernel, z, points, weights), ops.kernel_sum_grad(kernel, z, points, weights)
    assert report.quick + report.exact == 2
    for result, truth in zip(results, exact(kernel, z, points, weights), strict=True):
        assert float((result - truth).norm()) <= 2 * tolerance * float(truth.norm()) + 1e-280


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["laplace", "matern32", "gaussian"])
def test_one_tree_or_grid_gives_the_sum_and_the_gradient_of_the_companion(dim, name, generator):
    """What a drift takes: the companion's gradient is not that of the kernel, so that trees hold an expansion of each."""
    x, y = heap(150, dim, generator), heap(180, dim, generator) + 0.2
    weights, kernel = torch.rand(180, generator=generator, dtype=torch.float64), KERNELS[name](0.7)
    with ops.backend("fast", tolerance=1e-4) as report:
        results = ops.sum_and_grad(kernel, kernel.companion(), x, y, weights)
    assert (report.quick, report.exact) == (1, 0), report
    truth = exact(kernel, x, y, weights)[0], exact(kernel.companion(), x, y, weights)[1]
    for result, true in zip(results, truth, strict=True):
        assert error(result, true) < 1e-4
    assert error(exact(kernel, x, y, weights)[1], truth[1]) > 0.1 or name == "gaussian"


@pytest.mark.parametrize("name", ["laplace", "riesz(3/2)"])
def test_values_and_slopes_of_one_kernel_share_a_tree(name, generator):
    x, y, kernel = heap(150, 2, generator), heap(180, 2, generator), KERNELS[name](0.7)
    weights = torch.rand(180, generator=generator, dtype=torch.float64)
    apart, together = by_tree(kernel, x, y, weights, 6), by_tree(kernel, x, y, weights, 6, together=True)
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


STRESS = {
    "an outlier a million widths away": lambda p: torch.cat([p[:-1], p[-1:] + 1e6]),
    "one place": lambda p: p[:1].expand_as(p).contiguous(),
    "few places": lambda p: (2 * p).round() / 2,
    "on a line": lambda p: torch.cat([p[:, :1], torch.zeros_like(p[:, 1:])], 1),
    "on a slanted line": lambda p: p[:, :1].expand_as(p).contiguous(),
    "two heaps": lambda p: torch.cat([p[: len(p) // 2] * 1e-6, p[len(p) // 2 :] * 1e-6 + 3]),
    "ever denser": lambda p: p * 10.0 ** -torch.linspace(0, 6, len(p), dtype=p.dtype)[:, None],
    "far from the origin": lambda p: p + 1e6,
}


@dims
@pytest.mark.parametrize("place", STRESS)
@pytest.mark.parametrize("bandwidth", [1e-5, 0.5, 1e6])
def test_what_is_hard_for_trees(dim, place, bandwidth, generator):
    points = STRESS[place](torch.randn(120, dim, generator=generator, dtype=torch.float64))
    weights = torch.rand(120, generator=generator, dtype=torch.float64)
    for name in {1: ["riesz(3/2)"], 2: ["laplace", "matern52", "riesz(3/2)", "multiquadric"], 3: ["riesz", "matern52"]}[
        dim
    ]:
        kernel = KERNELS[name](bandwidth)
        with ops.backend("fast", tolerance=1e-4):
            results = (
                ops.kernel_sum(kernel, points, points, weights),
                ops.kernel_sum_grad(kernel, points, points, weights),
            )
        for result, truth in zip(results, exact(kernel, points, points, weights), strict=True):
            assert float((result - truth).norm()) <= 1e-4 * float(truth.norm()) + 1e-280


@pytest.mark.parametrize(("dim", "name"), [(2, "laplace"), (3, "matern52")])
def test_float32_keeps_its_digits_far_from_the_origin(dim, name, generator):
    """The reference is float64 on the points as float32 has them, of which a dense centre has few apart."""
    points = (heap(300, dim, generator) + 3e3).float()
    weights = torch.cat([torch.full((150,), 1 / 150), torch.full((150,), -1 / 150)])
    kernel = KERNELS[name](0.5)
    with ops.backend("fast", tolerance=1e-3) as report:
        slope = ops.kernel_sum_grad(kernel, points, points, weights)
    assert (report.quick, report.exact) == (1, 0), report
    assert error(slope, exact(kernel, points, points, weights)[1]) < 1e-3


@pytest.mark.parametrize("dim", [2, 3])
def test_a_few_points_far_out_are_summed_apart(dim, generator):
    x, y = (torch.randn(1500, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    x[7] *= 1e12
    points = torch.cat([x, y])
    weights = torch.cat([torch.full((1500,), 1 / 1500), torch.full((1500,), -1 / 1500)]).double()
    with ops.backend("fast", tolerance=1e-3) as report:
        slope = ops.kernel_sum_grad(Laplace(0.5), x, points, weights)
    assert (report.trees, report.exact) == (1, 0), report
    assert error(slope, exact(Laplace(0.5), x, points, weights)[1]) < 1e-3


def test_gradients_reach_particles_points_and_weights(generator):
    x, y = heap(120, 2, generator), heap(100, 2, generator)
    weights = torch.rand(100, generator=generator, dtype=torch.float64)
    kernel = Laplace(0.8) + 0.5 * RationalQuadratic(1.0, 0.3)
    gradients = {}
    for backend in ("fast", "reference"):
        inputs = [t.clone().requires_grad_() for t in (x, y, weights)]
        with ops.backend(backend, **({"tolerance": 1e-6} if backend == "fast" else {})) as report:
            total = ops.kernel_sum(kernel, *inputs).square().sum()
        gradients[backend] = torch.autograd.grad(total, inputs)
        assert backend == "reference" or (report.trees, report.exact) == (6, 0), report
    for result, truth in zip(gradients["fast"], gradients["reference"], strict=True):
        assert error(result, truth) <= 1e-5


@pytest.mark.parametrize("dim", [2, 3])
def test_flows_keep_the_tolerance(dim, generator):
    x, y = heap(150, dim, generator), heap(150, dim, generator) + 0.5
    for kernel in (Riesz(), Matern(1.5, 0.5) + 0.5 * Laplace(0.3)):
        exactly, within = (MMD(y, kernel, tolerance=tolerance) for tolerance in (None, 1e-3))
        moved, quick = (flow(d, x, step_size=0.05, num_steps=5).particles for d in (exactly, within))
        assert error(within(x), exactly(x)) < 1e-2
        assert 0 < error(within.velocity(x, at=y), exactly.velocity(x, at=y)) < 2e-3
        assert 0 < float((quick - moved).norm() / (moved - x).norm()) < 1e-2


def test_threads_change_nothing(generator):
    x = heap(4000, 2, generator)
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(by_tree(Riesz(), x, x, torch.ones(4000, dtype=torch.float64), 4))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_the_report_says_why_no_tree_will_do(generator, monkeypatch):
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    with ops.backend("fast", tolerance=1e-14) as report:
        ops.kernel_sum_grad(Laplace(1.0), x, x, torch.ones(60, dtype=torch.float64))
    assert (report.exact, report.reason) == (1, "the tolerance needs a higher degree than is offered")
    monkeypatch.setattr(fast, "PAIR", 0.3)
    with ops.backend("fast") as report:
        ops.kernel_sum_grad(Laplace(1.0), x, x, torch.ones(60, dtype=torch.float64))
    assert report.reason == "exact sums are quicker than a tree"
