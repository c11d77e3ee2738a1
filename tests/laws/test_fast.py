"""Laws of sums within a tolerance: they keep it or are exact, for any points, weights and bandwidths."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from mmdflow import MMD, Gaussian, InputError, Laplace, Linear, Matern, Riesz, flow, ops
from mmdflow.ops import fast, reference, spline_grid

dims = pytest.mark.parametrize("dim", [1, 2, 3])
backends = pytest.mark.parametrize("compiled", [True, False])


@pytest.fixture(autouse=True)
def _few_points(monkeypatch):
    """Take grids however few points there are."""
    monkeypatch.setattr(fast, "LEAST", 0)
    monkeypatch.setattr(fast, "PAIR", 1e6)
    monkeypatch.setattr(ops.dispatch, "SMALL", 0)


def clouds(n, m, dim, generator, dtype=torch.float32):
    x = torch.randn(n, dim, generator=generator, dtype=dtype)
    return x, torch.cat([x, torch.randn(m, dim, generator=generator, dtype=dtype) + 0.5])


def signed(n, m, dtype=torch.float32):
    return torch.cat([torch.full((n,), 1 / n, dtype=dtype), torch.full((m,), -1 / m, dtype=dtype)])


def exact(kernel, z, points, weights):
    double = [t.double() for t in (z, points, weights)]
    return reference.kernel_sum(kernel, *double), reference.kernel_sum_grad(kernel, *double)


def error(result, truth):
    return float((result.double() - truth).norm() / truth.norm())


def quick(kernel, z, points, weights, tolerance):
    with ops.backend("fast", tolerance=tolerance) as report:
        return (
            ops.kernel_sum(kernel, z, points, weights),
            ops.kernel_sum_grad(kernel, z, points, weights),
            report,
        )


@dims
@pytest.mark.parametrize("order", spline_grid.ORDERS)
def test_splines_have_the_moments_of_splines(dim, order, generator):
    """Shares are not negative, sum to 1 and reproduce a line; both ways of spreading and of interpolating agree."""
    shares = torch.from_numpy(spline_grid.spline(order))
    f = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    values = sum(f[:, None] ** k * shares[k] for k in range(order))
    assert bool((values >= -1e-15).all())
    torch.testing.assert_close(values.sum(1), torch.ones(50, dtype=torch.float64))
    places = torch.arange(order) - (order // 2 - 1)
    torch.testing.assert_close(values @ places.double(), f)


@dims
@pytest.mark.parametrize("order", spline_grid.ORDERS)
def test_compiled_loops_are_those_of_plain_torch(dim, order, generator, monkeypatch):
    x, y = clouds(30, 40, dim, generator, torch.float64)
    weights = torch.randn(70, generator=generator, dtype=torch.float64)
    grid = spline_grid.around(spline_grid.Box.of(x, y), 1.0, 0.4, order, 1e-6, torch.float64)
    results = []
    for compiled in (True, False):
        monkeypatch.setattr(spline_grid, "COMPILED", compiled)
        results.append(grid.sums(x, y, weights, values=True, slopes=True))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@dims
@pytest.mark.parametrize("order", spline_grid.ORDERS)
def test_the_bound_bounds_the_error_of_single_pairs(dim, order, generator):
    """One point of weight 1: the kernel itself, at other points."""
    for spacing in (0.5, 0.3):
        grid_error = [0.0, 0.0]
        for _ in range(10):
            y = torch.rand(1, dim, generator=generator, dtype=torch.float64)
            x = y + torch.randn(200, dim, generator=generator, dtype=torch.float64)
            grid = spline_grid.around(spline_grid.Box.of(x, y), 1.0, spacing, order, 1e-9, torch.float64)
            result = grid.sums(x, y, torch.ones(1, dtype=torch.float64), values=True, slopes=True)
            value = Gaussian(1.0)(x, y)[:, 0]
            slope = value[:, None] * (x - y)
            grid_error[0] = max(grid_error[0], float((result[0] - value).abs().max()))
            grid_error[1] = max(grid_error[1], float((result[1:].T - slope).abs().max()))
        bounds = spline_grid.error(order, spacing, dim)
        assert 1e-3 * bounds[0] < grid_error[0] <= bounds[0] + 1e-9
        assert 1e-3 * bounds[1] < grid_error[1] <= bounds[1] + 1e-9


@dims
@backends
@pytest.mark.parametrize("tolerance", [10.0, 1e-2, 1e-4, 1e-7])
def test_sums_keep_the_tolerance(dim, compiled, tolerance, generator, monkeypatch):
    monkeypatch.setattr(spline_grid, "COMPILED", compiled)
    dtype = torch.float64 if tolerance < 1e-5 else torch.float32
    x, points = clouds(150, 130, dim, generator, dtype)
    for bandwidth in (0.5, 3.0):
        value, slope, report = quick(Gaussian(bandwidth), x, points, signed(150, 130, dtype), tolerance)
        truth = exact(Gaussian(bandwidth), x, points, signed(150, 130, dtype))
        assert (report.grids, report.exact) == (2, 0), report
        assert value.dtype == slope.dtype == dtype
        assert max(error(value, truth[0]), error(slope, truth[1])) <= tolerance
        assert 0 < report.error <= tolerance


@backends
def test_nodes_of_many_points_keep_their_digits(compiled, monkeypatch):
    """Half a million equal weights on a few nodes: in float32 alone, every share is rounded in the same direction."""
    monkeypatch.setattr(spline_grid, "COMPILED", compiled)
    y = torch.linspace(-1, 1, 2**19)[:, None]
    weights = torch.full((2**19,), 1 / 3e6)
    box, nodes = spline_grid.Box.of(y), []
    for dtype in (torch.float32, torch.float64):
        nodes.append(spline_grid.around(box, 1.0, 0.3, 4, 1e-4, dtype).spread(y, weights))
    assert nodes[0].dtype == torch.float32
    assert len(nodes[0]) < 64
    assert error(nodes[0], nodes[1]) < 5e-6


@given(data=st.data())
@settings(max_examples=40)
def test_any_sums_keep_the_tolerance(data):
    """Other points than particles, weights of any sign, any place and scale, every extent of the box in bandwidths."""
    dim = data.draw(st.sampled_from([1, 2, 3]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    scale = 10.0 ** data.draw(st.integers(-8, 8))
    offset = data.draw(st.sampled_from([0.0, 1.0, 1e4]))
    n, m = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    z, points = (scale * (torch.randn(k, dim, generator=generator, dtype=torch.float64) + offset) for k in (n, m))
    weights = torch.randn(m, generator=generator, dtype=torch.float64)
    kernel = Gaussian(scale * data.draw(st.sampled_from([0.03, 0.3, 1.0, 30.0, 1e4])))
    tolerance = data.draw(st.sampled_from([1e-2, 1e-4, 1e-6]))
    value, slope, report = quick(kernel, z, points, weights, tolerance)
    truth = exact(kernel, z, points, weights)
    assert report.grids + report.exact == 2
    assert float((value - truth[0]).norm()) <= 2 * tolerance * float(truth[0].norm()) + 1e-280
    assert float((slope - truth[1]).norm()) <= 2 * tolerance * float(truth[1].norm()) + 1e-280


@dims
def test_gradients_reach_particles_points_and_weights(dim, generator):
    x, points = clouds(60, 50, dim, generator, torch.float64)
    weights = torch.rand(110, generator=generator, dtype=torch.float64)
    gradients = {}
    for backend in ("fast", "reference"):
        inputs = [t.clone().requires_grad_() for t in (x, points, weights)]
        with ops.backend(backend, **({"tolerance": 1e-6} if backend == "fast" else {})) as report:
            total = ops.kernel_sum(Gaussian(0.8), *inputs).square().sum()
        gradients[backend] = torch.autograd.grad(total, inputs)  # outside the block, as training loops do
        assert backend == "reference" or (report.grids, report.exact) == (3, 0)
    for result, truth in zip(gradients["fast"], gradients["reference"], strict=True):
        assert error(result, truth) <= 1e-5
    inputs = [t.clone().requires_grad_() for t in (x, points, weights)]
    with ops.backend("fast"):
        first = torch.autograd.grad(ops.kernel_sum(Gaussian(0.8), *inputs).sum(), inputs[0], create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), inputs[1])[0]  # by the reference
    assert bool(second.isfinite().all())


def test_the_divergence_and_its_flow_keep_the_tolerance(generator):
    x, points = clouds(200, 150, 2, generator, torch.float64)
    divergence = MMD(points[200:], Gaussian(0.4) + 0.5 * Gaussian(1.5))
    value, velocity = divergence(x), divergence.velocity(x)
    at = divergence.velocity(x, at=points)
    moved = flow(divergence, x, step_size=0.1, num_steps=10).particles
    with ops.backend("fast", tolerance=1e-5) as report:
        assert error(divergence(x), value) < 1e-4
        assert error(divergence.velocity(x), velocity) < 1e-5
        assert error(divergence.velocity(x, at=points), at) < 1e-5
        quick_moved = flow(divergence, x, step_size=0.1, num_steps=10).particles
    assert float((quick_moved - moved).norm() / (moved - x).norm()) < 1e-5
    assert report.grids > 20
    assert report.exact == 0


def test_a_divergence_with_a_tolerance_of_its_own(generator):
    x, points = clouds(200, 150, 2, generator, torch.float64)
    exactly, within = (MMD(points[200:], Gaussian(0.4), tolerance=t) for t in (None, 1e-3))
    z = x.clone().requires_grad_()
    by_x = torch.autograd.grad(within(z), z)[0]
    velocity = within.velocity(x)
    torch.testing.assert_close(by_x * -200, velocity, rtol=1e-2, atol=1e-4)
    assert 0 < error(velocity, exactly.velocity(x)) <= 1e-3
    assert 0 < error(within(x), exactly(x)) <= 1e-2
    assert 0 < error(within.witness(x)(points), exactly.witness(x)(points)) <= 1e-3


STRESS = {
    "an outlier a million widths away": lambda p: torch.cat([p[:-1], p[-1:] + 1e6]),
    "one place": lambda p: p[:1].expand_as(p).contiguous(),
    "on a line": lambda p: torch.cat([p[:, :1], torch.zeros_like(p[:, 1:])], 1),
    "on a slanted line": lambda p: p[:, :1].expand_as(p).contiguous(),
    "two heaps": lambda p: torch.cat([p[: len(p) // 2] * 1e-6, p[len(p) // 2 :] * 1e-6 + 3]),
}


@dims
@pytest.mark.parametrize("name", STRESS)
@pytest.mark.parametrize("bandwidth", [1e-5, 0.5, 1e6])
def test_what_is_hard_for_grids(dim, name, bandwidth, generator):
    points = STRESS[name](torch.randn(80, dim, generator=generator, dtype=torch.float64))
    weights = torch.rand(80, generator=generator, dtype=torch.float64)
    value, slope, _ = quick(Gaussian(bandwidth), points, points, weights, 1e-4)
    truth = exact(Gaussian(bandwidth), points, points, weights)
    assert error(value, truth[0]) <= 1e-4
    assert float((slope - truth[1]).norm()) <= 1e-4 * float(truth[1].norm()) + 1e-280


@pytest.mark.parametrize("dim", [2, 3])
def test_a_few_points_far_out_do_not_keep_the_bulk_off_the_grid(dim, generator):
    x, points = clouds(1500, 1500, dim, generator, torch.float64)
    x[7] += 1e6
    points[[7, 1800]] += 1e6
    points[2000] *= -1e9
    weights = signed(1500, 1500, torch.float64)
    value, slope, report = quick(Gaussian(0.5), x, points, weights, 1e-4)
    truth = exact(Gaussian(0.5), x, points, weights)
    assert (report.grids, report.exact) == (2, 0), report
    assert max(error(value, truth[0]), error(slope, truth[1])) <= 1e-4
    assert error(value[7], truth[0][7]) < 1e-12  # exact, as are its neighbours'


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_points_that_are_not_finite_spoil_no_others(bad, generator):
    x, points = clouds(2000, 100, 2, generator, torch.float64)
    x = x.clone()
    x[1234, 1] = bad
    with ops.backend("fast"):
        slope = ops.kernel_sum_grad(Gaussian(0.5), x, points, signed(2000, 100, torch.float64))
    fine = torch.arange(2000) != 1234
    truth = exact(Gaussian(0.5), x[fine], points, signed(2000, 100, torch.float64))[1]
    assert error(slope[fine], truth) <= 1e-4
    assert not bool(slope[1234].isfinite().all()) or bool((slope[1234] == 0).all())


@dims
def test_one_particle(dim):
    x = torch.full((1, dim), 0.3)
    value, slope, report = quick(Gaussian(1.0), x, x, torch.ones(1), 1e-4)
    assert float(value) == pytest.approx(1, abs=1e-4)
    assert bool((slope == 0).all())
    assert report.reason == "the sums on the sample vanish or are not finite"


def test_the_report_says_why_sums_are_exact(generator, monkeypatch):
    x, points = clouds(50, 50, 2, generator)
    with ops.backend("fast", tolerance=1e-15) as report:
        slope = ops.kernel_sum_grad(Gaussian(1.0), x, points, signed(50, 50))
    assert (report.grids, report.exact) == (0, 1)
    assert "finer grid" in report.reason or "on a sample" in report.reason
    assert error(slope, exact(Gaussian(1.0), x, points, signed(50, 50))[1]) < 1e-5
    monkeypatch.setattr(fast, "LEAST", math.inf)
    with ops.backend("fast") as report:
        ops.kernel_sum_grad(Gaussian(1.0), x, points, signed(50, 50))
    assert report.reason == "exact sums are quicker for so few points"
    with ops.backend("compiled") as report:
        assert report is None


def test_images_as_points_and_kernels_on_the_line(generator):
    """Events [1, 2] are the plane; on the line other kernels are exact."""
    x, points = clouds(60, 50, 2, generator)
    _, slope, report = quick(Gaussian(1.0), x[:, None], points[:, None], signed(60, 50), 1e-4)
    assert slope.shape == (60, 1, 2)
    assert report.exact == 0
    x, points = clouds(60, 50, 1, generator, torch.float64)
    for kernel in (Laplace(1.0), Matern(1.5, 1.0), Riesz()):
        value, slope, _ = quick(kernel, x, points, signed(60, 50, torch.float64), 1e-2)
        truth = exact(kernel, x, points, signed(60, 50, torch.float64))
        assert max(error(value, truth[0]), error(slope, truth[1])) < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 0}, "tolerance = 0: must be a finite number > 0"),
        ({"tolerance": -1e-4}, "tolerance = -0.0001: must be a finite number > 0"),
        ({"tolerance": float("nan")}, "tolerance = nan: must be a finite number > 0"),
        ({"name": "compiled", "tolerance": 1e-3}, "tolerance = 0.001 with backend = 'compiled': only 'fast' takes one"),
        ({"dim": 4}, "backend = 'fast' in dimension 4: must be 1 to 3; in more take 'auto'"),
        (
            {"kernel": Gaussian(1.0) * Riesz()},
            "with kernel = Product in dimension 2: must be Gaussian, Laplace, Matern, ",
        ),
        (
            {"kernel": Gaussian(1.0) + Gaussian(1.0) * Riesz(), "dim": 1},
            "with kernel = Product in dimension 1: must be ",
        ),
        ({"kernel": Laplace(1.0), "dim": 4}, "backend = 'fast' in dimension 4: must be 1 to 3; in more take 'auto'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_sums(arguments, message):
    settings = {"name": "fast", "kernel": Gaussian(1.0), "dim": 2, **arguments}
    x = torch.zeros(5, settings["dim"])
    tolerance = {"tolerance": settings["tolerance"]} if "tolerance" in settings else {}
    with pytest.raises(InputError) as caught, ops.backend(settings["name"], **tolerance):
        ops.kernel_sum(settings["kernel"], x, x, torch.ones(5))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kernels_of_finite_features_are_quick_in_any_dimension():
    x = torch.randn(5, 9)
    with ops.backend("fast"):
        torch.testing.assert_close(ops.kernel_sum(Linear(), x, x, torch.ones(5)), x @ x.sum(0))


@pytest.mark.usefixtures("unchecked")
def test_bad_tolerances_of_a_divergence():
    with pytest.raises(InputError, match="tolerance = 0: must be a finite number > 0"):
        MMD(torch.zeros(3, 2), Gaussian(1.0), tolerance=0)
    with pytest.raises(InputError, match="with kernel = Product in dimension 2"):
        MMD(torch.zeros(3, 2), Gaussian(1.0) * Riesz(), tolerance=1e-3)
