"""Laws of the Triton backend: the sums of the reference, on a GPU where there is one and in Triton's interpreter."""

import copy
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from mmdflow import Gaussian, Riesz, ops
from mmdflow.ops import dispatch, reference
from tests.laws.strategies import RADIAL

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
EVENTS = [(1,), (2,), (3,), (5,), (16,), (17,), (40,), (1, 2, 2), (2, 3, 3)]

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed (make test-gpu)", allow_module_level=True)
runs = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="no GPU; test_in_the_interpreter runs the file on the CPU"
)


@pytest.mark.skipif(INTERPRETED, reason="runs this file")
def test_in_the_interpreter():
    """In a process of its own: Triton asks for the interpreter's variable when it is imported."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def gpu(monkeypatch):
    """The backend, chosen by the dispatcher, with blocks so small that small sums have several of every kind."""
    from mmdflow.ops import gpu

    for name, size in {"CHUNK": 4, "PROGRAMS": 4, "SPAN": 6, "ROWS": 8, "COLUMNS": 24, "TILE": 16}.items():
        monkeypatch.setattr(gpu, name, size)
    monkeypatch.setattr(dispatch, "_module", lambda device: gpu)
    with ops.backend("compiled"):
        yield gpu


def draw(event, n, m, dtype=torch.float64):
    """Points, other points with duplicates among them and of the first, weights of both signs."""
    generator = torch.Generator().manual_seed(n + m)
    z, points = (torch.randn(k, *event, dtype=torch.float64, generator=generator) for k in (n, m))
    points[:3], points[-1] = z[:3], points[-2]
    weights = torch.randn(m, dtype=torch.float64, generator=generator)
    return [t.to(DEVICE, dtype) for t in (z, points, weights)]


@runs
@pytest.mark.parametrize("name", RADIAL)
@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_sums_are_those_of_the_reference(gpu, name, event):
    kernel = copy.deepcopy(RADIAL[name]).to(DEVICE)
    n, m = (300, 13) if len(event) == 1 and event[0] <= 16 else (9, 27)
    inputs = draw(event, n, m)
    exact = reference.kernel_sum(kernel, *inputs), reference.kernel_sum_grad(kernel, *inputs)
    for dtype, value_error, slope_error in ((torch.float64, 1e-10, 1e-10), (torch.float32, 3e-5, 1e-4)):
        found = [sum_(kernel, *(t.to(dtype) for t in inputs)) for sum_ in (ops.kernel_sum, ops.kernel_sum_grad)]
        assert all(t.dtype == dtype for t in found)
        torch.testing.assert_close(found[0].double(), exact[0], rtol=value_error, atol=value_error)
        torch.testing.assert_close(found[1].double(), exact[1], rtol=slope_error, atol=slope_error)


@runs
@pytest.mark.parametrize("dim", [2, 20])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 40), (40, 1)])
def test_single_points_and_what_is_asked_for(gpu, dim, n, m):
    z, points, weights = (t[:k] for t, k in zip(draw((dim,), 40, 40), (n, m, m), strict=True))
    both = ops.sums(Riesz().compiled_term(dim, z.dtype), z, points, weights, values=True, slopes=True)
    value, none = ops.sums(Riesz().compiled_term(dim, z.dtype), z, points, weights, values=True, slopes=False)
    assert none is None
    none, slope = ops.sums(Riesz().compiled_term(dim, z.dtype), z, points, weights, values=False, slopes=True)
    assert none is None
    assert torch.equal(value, both[0])
    assert torch.equal(slope, both[1])
    torch.testing.assert_close(value, reference.kernel_sum(Riesz(), z, points, weights))
    torch.testing.assert_close(slope, reference.kernel_sum_grad(Riesz(), z, points, weights))


@runs
@pytest.mark.parametrize("name", RADIAL)
@pytest.mark.parametrize("dim", [2, 20])
def test_coinciding_points_have_no_gradient(gpu, name, dim):
    kernel = copy.deepcopy(RADIAL[name]).to(DEVICE)
    for dtype in (torch.float32, torch.float64):
        z = torch.full((5, dim), 0.3, dtype=dtype, device=DEVICE)
        weights = torch.full((5,), 1e3, dtype=dtype, device=DEVICE)
        value, slope = (sum_(kernel, z, z, weights) for sum_ in (ops.kernel_sum, ops.kernel_sum_grad))
        torch.testing.assert_close(value, reference.kernel_sum(kernel, z, z, weights), rtol=1e-5, atol=1e-3)
        assert not slope.any()


@runs
@pytest.mark.parametrize("dim", [3, 40])
def test_tight_clusters_keep_their_digits(gpu, dim):
    """In float32, far from the origin and from each other, where norms and products cancel."""
    generator = torch.Generator().manual_seed(0)
    places = 100 + 10 * torch.randn(2, dim, generator=generator)
    z = places.repeat_interleave(12, 0)
    z = (z + 1e-3 * torch.randn(z.shape, generator=generator)).to(DEVICE)
    weights = torch.rand(len(z), generator=generator).to(DEVICE)
    exact = [t.double() for t in (z, z, weights)]
    value, slope = ops.kernel_sum(Riesz(0.5), z, z, weights), ops.kernel_sum_grad(Riesz(0.5), z, z, weights)
    torch.testing.assert_close(value.double(), reference.kernel_sum(Riesz(0.5), *exact), rtol=1e-5, atol=0)
    expected = reference.kernel_sum_grad(Riesz(0.5), *exact)
    assert (slope.double() - expected).norm() < 1e-3 * expected.norm()


@runs
def test_long_sums_keep_their_digits(monkeypatch):
    """Equal numbers, all of which a sum in float32 rounds alike: one after the other they would lose ten times as much."""
    from mmdflow.ops import gpu

    monkeypatch.setattr(gpu, "PROGRAMS", 1)
    monkeypatch.setattr(gpu, "CHUNK", 64)
    z, points = torch.zeros(2, 1, device=DEVICE), torch.ones(4000, 1, device=DEVICE)
    weights = torch.full((len(points),), 0.1, device=DEVICE)
    value, slope = ops.sums(Gaussian(5.0).compiled_term(1, z.dtype), z, points, weights, values=True, slopes=True)
    exact = [t.double() for t in (z, points, weights)]
    torch.testing.assert_close(value.double(), reference.kernel_sum(Gaussian(5.0), *exact), rtol=1e-6, atol=0)
    torch.testing.assert_close(slope.double(), reference.kernel_sum_grad(Gaussian(5.0), *exact), rtol=1e-6, atol=0)


@runs
@pytest.mark.parametrize("dim", [2, 20])
def test_nan_is_not_hidden(gpu, dim):
    z, points, weights = draw((dim,), 6, 5)
    z[4, 1] = torch.nan
    value, slope = (sum_(Gaussian(1.0), z, points, weights) for sum_ in (ops.kernel_sum, ops.kernel_sum_grad))
    assert value.isnan().tolist() == [i == 4 for i in range(6)]
    assert slope.isnan().any(1).tolist() == [i == 4 for i in range(6)]


@runs
@pytest.mark.parametrize("setting", ["none", "ieee", "tf32", "inherited"])
def test_products_are_formed_in_full_precision(gpu, monkeypatch, setting):
    """Whatever the program allows, which is as before afterwards."""
    seen, product, everything = [], torch.mm, torch.backends.fp32_precision
    matmul = torch.backends.cuda.matmul
    monkeypatch.setattr(torch, "mm", lambda *a, **k: (seen.append(matmul.fp32_precision), product(*a, **k))[1])
    try:
        matmul.fp32_precision = "none" if setting == "inherited" else setting
        torch.backends.fp32_precision = "tf32" if setting == "inherited" else everything
        before = matmul.fp32_precision
        ops.kernel_sum(Gaussian(1.0), *draw((20,), 6, 5, torch.float32))
        assert seen
        assert set(seen) == {"ieee"}
        assert matmul.fp32_precision == before
        torch.backends.fp32_precision = everything
        assert matmul.fp32_precision == ("none" if setting == "inherited" else setting)
    finally:
        torch.backends.fp32_precision, matmul.fp32_precision = everything, "none"
