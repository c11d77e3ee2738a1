"""Laws of compiled and binned ranks: the slopes and potentials of the plain reference, for the same directions."""

import pytest
import torch
from hypothesis import given, strategies as st

from mmdflow import MMD, Gaussian, InputError, Riesz, SlicedMMD, ops
from mmdflow.ops import slices

KINDS = ["round", "grid", "heavy", "far", "one", "clusters"]


def points(kind, n, dim, seed):
    """Round points; points of a coarse grid, full of ties; heavy tails; far from the origin; all the same; two tight clusters."""
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    if kind == "grid":
        return (2 * x).round() / 2
    if kind == "heavy":
        return x / torch.randn(n, 1, generator=torch.Generator().manual_seed(seed + 1))
    if kind == "far":
        return x + 100
    if kind == "one":
        return x[:1].expand(n, dim).clone()
    if kind == "clusters":
        return 1e-3 * x + 5 * (torch.arange(n) % 2)[:, None]
    return x


def sliced(target, num_directions=40, **settings):
    return SlicedMMD(target, num_directions, generator=torch.Generator().manual_seed(0), redraw=False, **settings)


def relative(got, exact, scale=1e-6):
    return float((got.double() - exact).norm() / (exact.norm() + scale))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), dim=st.sampled_from([1, 2, 20]), weighted=st.booleans(), elsewhere=st.booleans())
def test_compiled_ranks_are_those_of_the_reference(kind, data, dim, weighted, elsewhere):
    n, m = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    x, y = points(kind, n, dim, 1), points(kind, m, dim, 2)
    if data.draw(st.booleans()):
        y[0] = x[0]
    q = torch.rand(m, generator=torch.Generator().manual_seed(3)) + 0.1 if weighted else None
    at = x[: n // 2 + 1] + 0.25 if elsewhere else None
    divergence = sliced(y, target_weights=q)
    double = sliced(y.double(), target_weights=None if q is None else q.double())
    double.xi = divergence.xi.double()
    weights = torch.full((n,), 1 / n) if not weighted else torch.softmax(torch.arange(n) / n, 0)
    exact = double.velocity(x.double(), None if at is None else at.double(), weights=weights.double())
    with ops.backend("compiled"):
        assert divergence.rank_error == 0
        got = divergence.velocity(x, at, weights)
        value, potential = divergence(x, weights), divergence.witness(x, weights)(x if at is None else at)
    with ops.backend("reference"):
        plain = divergence.velocity(x, at, weights)
    # pairs of projections within rounding of each other may tie in one and not in the other
    allowed = 3 * (plain - exact).norm() + 4 * divergence.scale / len(divergence.xi) / min(n, m) + 1e-5
    assert (got - exact).norm() <= allowed
    size = float(x.norm(dim=1).mean() + y.norm(dim=1).mean())
    assert float(value) == pytest.approx(float(double(x.double(), weights.double())), rel=1e-4, abs=3e-6 * size)
    expected = double.witness(x.double(), weights.double())(x.double() if at is None else at.double())
    torch.testing.assert_close(potential.double(), expected, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("dim", [1, 3])
def test_particles_on_the_target_do_not_move(dim):
    """Equal points tie although products round them differently, in any order and however many."""
    y = torch.randn(500, dim, generator=torch.Generator().manual_seed(0))
    divergence = sliced(y)
    with ops.backend("compiled"):
        assert divergence.velocity(y.flip(0)).abs().max() < 1e-6
        doubled = sliced(torch.cat([y, y]))
        assert doubled.velocity(y).abs().max() < 1e-6


def test_compiled_slices_are_the_energy_distance_on_the_line():
    x, y = points("round", 300, 1, 1), points("round", 200, 1, 2) + 0.3
    with ops.backend("compiled"):
        line = sliced(y, 1)
        value, velocity = line(x), line.velocity(x)
    exact = MMD(y.double(), Riesz())
    torch.testing.assert_close(value.double(), exact(x.double()), rtol=1e-5, atol=1e-6)
    assert relative(velocity, exact.velocity(x.double())) < 1e-3


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("weighted", [False, True])
def test_binned_ranks_keep_their_bound(backend, weighted):
    n, m = 3000, 2000
    x, y = points("round", n, 5, 1), points("round", m, 5, 2) + 0.5
    settings = {"target_weights": torch.rand(m, generator=torch.Generator().manual_seed(3))} if weighted else {}
    exact = sliced(y, ranks="exact", **settings)
    binned = sliced(y, ranks="binned", **settings)
    with ops.backend(backend):
        expected, got = exact.velocity(x), binned.velocity(x)
    assert exact.rank_error == 0
    assert 0 < binned.rank_error < slices.TOLERANCE * binned.scale
    assert (got - expected).norm(dim=1).max() <= binned.rank_error
    assert relative(got, expected.double()) < 0.01


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("kind", ["heavy", "one", "clusters"])
def test_slices_whose_bins_are_too_full_are_sorted(backend, kind):
    x, y = points(kind, 400, 2, 1), points(kind, 300, 2, 4)
    exact, binned = sliced(y), sliced(y, ranks="binned")
    with ops.backend(backend):
        torch.testing.assert_close(binned.velocity(x), exact.velocity(x))
    assert binned.rank_error == 0


def test_backends_bin_alike():
    x, y = points("round", 3000, 3, 1), points("round", 2500, 3, 2)
    binned = sliced(y, ranks="binned")
    found = []
    for backend in ("compiled", "reference"):
        with ops.backend(backend):
            found.append((binned.velocity(x), binned.rank_error))
    assert relative(found[0][0], found[1][0].double()) < 2e-3
    assert found[0][1] == pytest.approx(found[1][1], rel=0.02)


def test_what_is_not_finite_stays_visible():
    x, y = points("round", 50, 2, 1), points("round", 60, 2, 2)
    x[3] = torch.nan
    for ranks in ("exact", "binned"):
        divergence = sliced(y, ranks=ranks)
        with ops.backend("compiled"):
            assert divergence.velocity(x).isnan().any()
            assert divergence.witness(x)(x).isnan().any()


@pytest.mark.parametrize("ranks", ["exact", "binned"])
def test_threads_and_blocks_do_not_change_slices(ranks, monkeypatch):
    x, y = points("round", 700, 3, 1), points("round", 900, 3, 2)
    found = []
    for workers, block in ((1, 2**20), (2, 2**20), (1, 1), (2, 5000)):
        monkeypatch.setattr("mmdflow.ops.ranks.BLOCK", block)
        torch.set_num_threads(workers)
        try:
            with ops.backend("compiled"):
                divergence = sliced(y, ranks=ranks)
                found.append((divergence.velocity(x), divergence(x)))
        finally:
            torch.set_num_threads(1)
    for got in found[1:]:
        torch.testing.assert_close(got, found[0], rtol=1e-4, atol=1e-5)


def test_projections_of_a_fixed_target_are_kept(monkeypatch):
    x, y = points("round", 50, 20, 1), points("round", 60, 20, 2)
    fixed = sliced(y)
    with ops.backend("compiled"):
        first = fixed.velocity(x)
        kept = fixed.projected()
        assert kept is not None
        assert fixed.projected() is kept
        torch.testing.assert_close(fixed.velocity(x), first)
        monkeypatch.setattr("mmdflow.divergences.sliced.KEPT", 1)
        assert fixed.projected() is None
        torch.testing.assert_close(fixed.velocity(x), first)
        assert SlicedMMD(y, 40).projected() is None


@pytest.mark.parametrize("ranks", ["exact", "binned"])
def test_bfloat16_products_are_off_by_their_rounding(ranks):
    x, y = points("round", 800, 100, 1), points("round", 900, 100, 2) + 0.2
    full, half = sliced(y, 300, ranks=ranks), sliced(y, 300, ranks=ranks, precision="bfloat16")
    expected = full.velocity(x).double()
    for backend in ("compiled", "reference"):
        with ops.backend(backend):
            got = half.velocity(x)
        assert got.dtype == torch.float32
        assert 1e-5 < relative(got, expected) < 0.02
    assert float(half(x)) == pytest.approx(float(full(x)))  # values take full products


@pytest.mark.parametrize("num_directions", [100, 200])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_transforms_of_structured_directions_are_their_products(num_directions, elsewhere, monkeypatch):
    """One block of 128 rows, part of one, and one and a half; 100 dimensions, which is no power of two."""
    x, y = points("round", 70, 100, 1), points("round", 90, 100, 2) + 0.2
    at = x[:50] + 0.1 if elsewhere else None
    divergence = sliced(y, num_directions, directions="structured")
    assert divergence.structure() is not None
    with ops.backend("reference"):
        expected = divergence.velocity(x, at)
    with ops.backend("compiled"):
        assert relative(divergence.velocity(x, at), expected.double()) < 3e-3
        monkeypatch.setattr("mmdflow.ops.ranks.STRUCTURED_BLOCK", 1)
        assert relative(divergence.velocity(x, at), expected.double()) < 3e-3
    divergence.xi = divergence.xi.clone()
    assert divergence.structure() is None
    assert SlicedMMD(y, 10).structure() is None


@pytest.mark.parametrize("dim", [1, 2])
def test_rounded_projections_beyond_the_radius_stay_at_the_ends(dim):
    x = torch.linspace(-1, 1, 41)[:, None] * torch.tensor([1.0045, 0.0][:dim])
    half = sliced(0.9 * x[:30], 1, precision="bfloat16")
    half.xi = torch.eye(dim)[:1]
    with ops.backend("reference"):
        expected = half.velocity(x)
    with ops.backend("compiled"):
        torch.testing.assert_close(half.velocity(x), expected, atol=0.06, rtol=0)


def test_fixed_targets_tie_in_bfloat16_too():
    y = points("round", 60, 100, 1)
    half = sliced(y, 50, precision="bfloat16")
    with ops.backend("compiled"):
        assert half.projected() is not None
        assert half.velocity(y.clone()).abs().max() < 1e-6


def test_even_weights_that_do_not_sum_to_one_are_taken_as_they_are():
    x, y = points("round", 7, 2, 1), points("round", 9, 2, 2)
    found = []
    for backend in ("compiled", "reference"):
        with ops.backend(backend):
            found.append(sliced(y).velocity(x, weights=torch.full((7,), 2.0)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"directions": "structured"}])
def test_loaded_targets_and_directions_replace_what_was_kept(settings):
    x, y = points("round", 50, 100, 1), points("round", 60, 100, 2)

    def fixed(target, seed):
        return SlicedMMD(target, 40, generator=torch.Generator().manual_seed(seed), redraw=False, **settings)

    loaded, other = fixed(y, 0), fixed(50 * y, 1)
    with ops.backend("compiled"):
        loaded.velocity(x)
        loaded.load_state_dict(other.state_dict())
        torch.testing.assert_close(loaded.velocity(x), other.velocity(x), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(loaded(x), other(x))


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_sizes_that_squares_cannot_hold(size):
    x, y = points("round", 50, 2, 1), points("round", 60, 2, 2)
    with ops.backend("compiled"):
        expected = sliced(y).velocity(x)
        torch.testing.assert_close(sliced(size * y).velocity(size * x), expected, rtol=1e-3, atol=1e-3)


def test_bins_and_halves_are_for_the_riesz_kernel_of_exponent_one():
    y = points("round", 5, 2, 1)
    for settings in ({"exponent": 1.5, "ranks": "binned"}, {"kernel": Gaussian(1.0), "precision": "bfloat16"}):
        with pytest.raises(InputError, match="but for the Riesz kernel of exponent 1"):
            SlicedMMD(y, 5, **settings)
