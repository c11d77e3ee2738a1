"""`torch.autocast` changes nothing, half precision is summed in float32, and points far from the origin keep their digits."""

import pytest
import torch

from mmdflow import (
    MMD,
    AdaptiveMMD,
    Deep,
    Drift,
    Gaussian,
    Kernel,
    Laplace,
    Linear,
    Matern,
    Polynomial,
    RationalQuadratic,
    Riesz,
    SlicedMMD,
    ops,
)
from mmdflow.divergences.drifts import NORMALIZATIONS
from mmdflow.divergences.functional import mmd2_by_sums
from mmdflow.functional import mmd2, mmd2_of_features
from mmdflow.kernels import median_bandwidth, nearest_distance, squared_distances
from mmdflow.metrics import (
    frechet_distance,
    kernel_distance,
    manifold_scores,
    memorisation,
    mmd_test,
    nearest_distances,
    sliced_w2,
)
from tests.laws.strategies import DIVERGENCES, KERNELS, RADIAL, divergence

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
#: Those whose own tensors are float64.
DOUBLE = ("mmd-gaussian-tensor", "potential-embedding")


def normal(n, *event, seed=0, dtype=torch.float32):
    return torch.randn(n, *event, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def lowered():
    return torch.autocast("cpu", torch.bfloat16)


def everything(field, x):
    """All that a velocity field says about particles x."""
    found = {"velocity": field.velocity(x), "elsewhere": field.velocity(x, x[:3] + 0.1)}
    if isinstance(field, torch.nn.Module):
        z = x.clone().requires_grad_()
        value = field(z)
        witness = field.witness(x)
        found |= {"value": value, "f": witness(x), "grad": witness.grad(x)}
        found |= {f"buffer {name}": buffer for name, buffer in field.named_buffers()}
    return found


@pytest.mark.parametrize("dim", [3, 20])
@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name not in (*DOUBLE, "mmd-from-mean")])
def test_a_divergence_computes_inside_autocast_as_outside(name, dim):
    y, x = normal(30, dim) / dim**0.25, normal(20, dim, seed=1) / dim**0.25
    expected = everything(divergence(name, y), x)
    with lowered():
        found = everything(divergence(name, y), x)
    for part in expected:
        assert torch.equal(found[part], expected[part]), part


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_drift_computes_inside_autocast_as_outside(normalization):
    y, x = normal(30, 20) / 2, normal(20, 20, seed=1) / 2
    expected = everything(Drift(y, Laplace(2.0), normalization=normalization), x)
    with lowered():
        found = everything(Drift(y, Laplace(2.0), normalization=normalization), x)
    for part in expected:
        assert torch.equal(found[part], expected[part]), part


@pytest.mark.parametrize("dim", [3, 20])
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_computes_inside_autocast_as_outside(name, dim):
    kernel, x, y = KERNELS[name], normal(6, dim) / 2, normal(5, dim, seed=1) / 2
    v, weights = normal(5, dim, seed=2), normal(6, 5, seed=3)
    calls = {
        "forward": lambda: kernel(x, y),
        "grad": lambda: kernel.grad(x, y, weights),
        "diag": lambda: kernel.diag(x),
        "tangent": lambda: kernel.tangent(x, y, v),
        "sum": lambda: ops.kernel_sum(kernel, x, y, weights[0]),
        "sum's gradient": lambda: ops.kernel_sum_grad(kernel, x, y, weights[0]),
        "mmd2": lambda: mmd2(x, y, kernel),
    }
    if kernel.smooth:
        calls |= {"tangent_grad": lambda: kernel.tangent_grad(x, y, v), "mixed": lambda: kernel.mixed(x, y)}
    if kernel.finite:
        calls["embed"] = lambda: kernel.embed(x)
    for method, call in calls.items():
        expected = call()
        with lowered():
            assert torch.equal(call(), expected), method


def test_what_compares_two_samples_does_so_inside_autocast_as_outside():
    x, y = normal(40, 20), normal(30, 20, seed=1) + 0.3
    calls = [
        lambda: mmd2_of_features(x, y),
        lambda: mmd2_by_sums(x, y, Gaussian(3.0)),
        lambda: squared_distances(x, y),
        lambda: median_bandwidth(x),
        lambda: nearest_distance(x),
        lambda: mmd_test(x, y, generator=torch.Generator().manual_seed(0)),
        lambda: frechet_distance(x, y),
        lambda: kernel_distance(x, y, subset_size=20, generator=torch.Generator().manual_seed(0)),
        lambda: manifold_scores(x, y),
        lambda: memorisation(nearest_distances(x, y), nearest_distances(y, x)),
        lambda: sliced_w2(x, y, generator=torch.Generator().manual_seed(0)),
    ]
    for call in calls:
        expected = call()
        with lowered():
            found = call()
        assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected


class Cosine(Kernel):
    """A kernel of one's own, by matrix products."""

    def forward(self, x, y):
        return (x @ y.T).cos()


def test_a_kernel_and_a_network_of_ones_own_run_inside_autocast_as_outside():
    network = torch.nn.Linear(20, 8)
    x, y = normal(10, 20), normal(12, 20, seed=1)
    for kernel in (Cosine(), Deep(Linear(), network), Deep(Gaussian(1.0), network)):
        expected = MMD(y, kernel).velocity(x), mmd2(x, y, kernel)
        with lowered():
            found = MMD(y, kernel).velocity(x), mmd2(x, y, kernel)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


def test_a_gradient_outside_the_block_is_that_of_a_value_inside():
    y, x = normal(30, 20), normal(20, 20, seed=1)
    for make in (lambda: MMD(y, Gaussian(4.0)), lambda: MMD(y, Linear()), lambda: SlicedMMD(y, 8, redraw=False)):
        divergence = make()
        gradients = []
        for enabled in (False, True):
            z = x.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                value = divergence(z)
            gradients += torch.autograd.grad(value, z)
        assert torch.equal(*gradients)


HALF_KERNELS = {**RADIAL, "linear": Linear(), "polynomial": Polynomial(2), "product": Gaussian(1.5) * Polynomial(2)}
HALF_KERNELS.pop("gaussian-tensor")


def assert_rounded(found, expected, dtype, slack=1.0):
    """A result in half precision is the right one, rounded once, and a trace of float32."""
    assert found.dtype == dtype
    error = (found.double() - expected).abs()
    size = expected.abs() + torch.finfo(dtype).tiny / torch.finfo(dtype).eps
    assert bool((error <= slack * torch.finfo(dtype).eps * size + 1e-4 * expected.abs().max()).all()), error.max()


@HALF
@pytest.mark.parametrize("dim", [3, 20])
@pytest.mark.parametrize("name", HALF_KERNELS)
def test_kernels_of_points_in_half_precision_are_rounded_once(name, dim, dtype):
    kernel = HALF_KERNELS[name]
    x, y = normal(6, dim, dtype=dtype) / 2, normal(5, dim, seed=1, dtype=dtype) / 2
    weights = normal(6, 5, seed=2, dtype=dtype)
    assert_rounded(kernel(x, y), kernel(x.double(), y.double()), dtype)
    assert_rounded(kernel.diag(x), kernel.diag(x.double()), dtype)
    assert_rounded(kernel.grad(x, y, weights), kernel.grad(x.double(), y.double(), weights.double()), dtype)


#: Drifts with more than a target: what is held beside it is in half precision, too.
OPTIONS = {
    "negatives": lambda y: Drift(y, Laplace(1.0), normalization="mean-shift", negatives=-y),
    "weights": lambda y: Drift(
        y, Laplace(1.0), normalization="batch", negatives=-y, negative_weights=torch.arange(1.0, len(y) + 1) / 1000
    ),
    "second": lambda y: Drift(y, Laplace(1.0), normalization="sharp", second=-y, unbiased=True),
    "sinkhorn": lambda y: Drift(y, Laplace(1.0), normalization="sinkhorn", second=-y),
}


def of_half(name, y):
    """A field whose target is in the dtype of y."""
    makes = {
        **{f"mmd-{kernel}": lambda y, kernel=kernel: MMD(y, HALF_KERNELS[kernel]) for kernel in HALF_KERNELS},
        **{f"drift-{kind}": lambda y, kind=kind: Drift(y, Laplace(1.0), normalization=kind) for kind in NORMALIZATIONS},
        **{f"options-{kind}": make for kind, make in OPTIONS.items()},
        "landmarks": lambda y: MMD.from_landmarks(y[:40], y, Gaussian(1.0), ridge=1e-2),
        "landmarks-linear": lambda y: MMD.from_landmarks(y[:40], y, Linear(), ridge=1e-2),
        "mmd-weighted": lambda y: MMD(y, Riesz(), target_weights=torch.arange(1.0, len(y) + 1)),
        "sliced": lambda y: SlicedMMD(y, 16, generator=torch.Generator().manual_seed(0), redraw=False),
        "sliced-1.5": lambda y: SlicedMMD(y, 16, 1.5, generator=torch.Generator().manual_seed(0), redraw=False),
        "adaptive": lambda y: AdaptiveMMD(y, "median"),
        "adaptive-optimal": lambda y: AdaptiveMMD(y, "optimal", minimum=1.0),
    }
    return makes[name](y)


NAMES = [f"mmd-{kernel}" for kernel in HALF_KERNELS] + [f"drift-{kind}" for kind in NORMALIZATIONS]
NAMES += [f"options-{kind}" for kind in OPTIONS] + ["landmarks", "landmarks-linear"]
NAMES += ["mmd-weighted", "sliced", "sliced-1.5", "adaptive", "adaptive-optimal"]


@HALF
@pytest.mark.parametrize("name", NAMES)
def test_fields_of_many_points_in_half_precision_are_rounded_once(name, dtype):
    """Sums of 700 terms, whose weights 1/700 round by 2^-9, too."""
    y, x = normal(701, 3, dtype=dtype), normal(300, 3, seed=1, dtype=dtype) + 1
    half, exact = of_half(name, y), of_half(name, y.double())
    assert_rounded(half.velocity(x), exact.velocity(x.double()), dtype)
    assert_rounded(half.velocity(x, x[:5]), exact.velocity(x.double(), x[:5].double()), dtype)
    if isinstance(half, torch.nn.Module):
        z, exact_z = x.clone().requires_grad_(), x.double().requires_grad_()
        value, expected = half(z), exact(exact_z)
        assert_rounded(value, expected, dtype)
        assert_rounded(half.witness(x)(x[:5]), exact.witness(x.double())(x[:5].double()), dtype)
        scale = 1000.0  # as a loss scaler would: the slopes of a mean over 300 points are small
        found = torch.autograd.grad(scale * value, z)[0]
        assert_rounded(found, torch.autograd.grad(scale * expected, exact_z)[0], dtype, slack=2.0)


@HALF
def test_the_usual_step_of_a_target_in_half_precision_is_that_of_its_points(dtype):
    y = normal(701, 3, dtype=dtype)
    for name in ("mmd-weighted", "mmd-gaussian", "sliced"):
        found, expected = (of_half(name, points).usual_step() for points in (y, y.double()))
        assert found == pytest.approx(expected, rel=1e-5)


@HALF
def test_a_divergence_that_is_lowered_keeps_its_sums(dtype):
    """`Module.to` lowers the target alone, as if the divergence had been made of it."""
    y, x = normal(701, 3).to(dtype), normal(300, 3, seed=1, dtype=dtype) + 1
    for name in ("mmd-gaussian", "mmd-linear", "sliced", "mmd-weighted"):
        converted, made = of_half(name, y.float()).to(dtype), of_half(name, y)
        assert converted.check(x) is x
        assert_rounded(converted(x), made(x).double(), dtype)
        assert_rounded(converted.velocity(x), made.velocity(x).double(), dtype)


@HALF
def test_tests_and_bandwidths_of_half_precision_are_those_of_the_points(dtype):
    x, y = normal(100, 3, dtype=dtype), normal(120, 3, seed=1, dtype=dtype) + 0.2
    assert median_bandwidth(x) == pytest.approx(median_bandwidth(x.double()), rel=1e-5)
    assert nearest_distance(x) == pytest.approx(nearest_distance(x.double()), rel=1e-4)
    exact = mmd_test(x.double(), y.double(), Gaussian(1.0), generator=torch.Generator().manual_seed(0))
    found = mmd_test(x, y, Gaussian(1.0), generator=torch.Generator().manual_seed(0))
    assert found == pytest.approx(exact, rel=1e-4)


@HALF
def test_a_network_in_half_precision_is_summed_in_single(dtype):
    network = torch.nn.Linear(3, 5).to(dtype)
    y, x = normal(701, 3, dtype=dtype), normal(300, 3, seed=1, dtype=dtype) + 1
    features = [network(points).detach().double() for points in (x, y)]
    for base in (Linear(), Gaussian(1.0), Riesz()):
        kernel = Deep(base, network)
        expected = MMD(features[1], base)(features[0])
        assert_rounded(MMD(y, kernel)(x).detach(), expected, dtype)
        assert_rounded(mmd2(x, y, kernel).detach(), mmd2(*features, base), dtype)


AWAY = {
    "linear": Linear(),
    "two linear": Linear() + 0.5 * Linear(),
    "polynomial": Polynomial(2),
    "cubic": Polynomial(3, 0.1, 2.0),
    "mixture": Gaussian(2.0) + 0.01 * Linear(),
    "deep": Deep(Linear(), lambda x: 2 * x + 1),
    "deep mixture": Deep(Linear() + Linear(), lambda x: 2 * x),
}


@pytest.mark.parametrize("name", AWAY)
@pytest.mark.parametrize("shift", [0.0, 1000.0, -3e4])
def test_the_mmd_keeps_its_digits_far_from_the_origin(name, shift):
    """To what float32 leaves of the points themselves; F of the same points in float64 is right."""
    y, x = normal(500, 8) + shift, normal(300, 8, seed=1) + 0.3 + shift
    kernel = AWAY[name]
    single, exact = MMD(y, kernel), MMD(y.double(), kernel)
    assert single(x).item() == pytest.approx(exact(x.double()).item(), rel=1e-4)
    expected = exact.velocity(x.double())
    for found in (single.velocity(x), single.velocity(x, x), -single.witness(x).grad(x)):
        assert (found.double() - expected).norm() < 1e-4 * expected.norm()
    z, exact_z = x.clone().requires_grad_(), x.double().requires_grad_()
    (found,), (expected,) = torch.autograd.grad(single(z), z), torch.autograd.grad(exact(exact_z), exact_z)
    assert (found.double() - expected).norm() < 1e-4 * expected.norm()


def test_equal_clouds_far_from_the_origin_do_not_move():
    x = normal(400, 8) + 1e4
    for kernel in (Linear(), Deep(Linear(), lambda x: 3 * x)):
        divergence = MMD(x, kernel)
        assert divergence(x) < 1e-10
        assert divergence.velocity(x).abs().max() < 1e-4
        other = MMD.from_mean_embedding(kernel.embed(x).double().mean(0).float(), kernel)
        assert other(x) < 1e-5  # the mean itself is rounded: 1e4 has digits of 1e-3


def test_weights_of_the_target_count_far_from_the_origin():
    y, x = normal(50, 2) + 1000, normal(40, 2, seed=1) + 1000.5
    weights = torch.arange(1.0, 51.0)
    for kernel in (Linear(), Matern(1.5, 1.0), RationalQuadratic(1.0)):
        single, exact = MMD(y, kernel, target_weights=weights), MMD(y.double(), kernel, target_weights=weights)
        assert single(x).item() == pytest.approx(exact(x.double()).item(), rel=1e-4)
