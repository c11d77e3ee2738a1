"""Arrays of any kind go in, and arrays of the same kind come out; kernel and step are chosen where none is given."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

import mmdflow
from mmdflow import (
    KALE,
    MMD,
    AdaptiveMMD,
    DMMDPipeline,
    Drift,
    DrMMD,
    FDivergence,
    Gaussian,
    InputError,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Linear,
    Matern,
    RationalQuadratic,
    Riesz,
    SlicedMMD,
    SobolevDescent,
    flow,
    metrics,
)
from mmdflow._arrays import back, tensor
from mmdflow.data import read_points, save_points, toy
from mmdflow.flows import Euler, Reweighting
from mmdflow.functional import mmd2, mmd2_of_features
from mmdflow.kernels import default_bandwidth, median_bandwidth, nearest_distance
from mmdflow.methods import load_pipeline
from mmdflow.recipe import DivergenceSpec
from mmdflow.recipe.divergences import KERNELS, build_divergence

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 2)), RNG.normal(size=(40, 2)) + 1
TX, TY = torch.from_numpy(X), torch.from_numpy(Y)


class Foreign:
    """An array of another library: all that it has is DLPack and a namespace, as JAX's."""

    def __init__(self, held):
        self.held = held

    def __dlpack__(self, **options):
        return self.held.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.held.__dlpack_device__()

    def __array_namespace__(self):
        return Foreign

    @staticmethod
    def from_dlpack(other):
        return Foreign(np.from_dlpack(other))

    @property
    def shape(self):
        return self.held.shape

    @property
    def dtype(self):
        return self.held.dtype

    def __getitem__(self, i):
        return self.held[i]

    def __len__(self):
        return len(self.held)


class Table:
    """A table: all that it has is `__array__`, as pandas'."""

    def __array__(self, dtype=None, copy=None):
        return X if dtype is None else X.astype(dtype)


EXPECTED = flow(MMD(TY, Riesz()), TX, step_size=0.3, momentum=0.9, num_steps=20)


@pytest.mark.parametrize(
    ("source", "kind"),
    [(X, np.ndarray), (X.tolist(), np.ndarray), (Table(), np.ndarray), (Foreign(X), Foreign), (TX, torch.Tensor)],
    ids=["numpy", "list", "table", "dlpack", "torch"],
)
@pytest.mark.parametrize("target", [Y, Y.tolist(), Foreign(Y), TY], ids=["numpy", "list", "dlpack", "torch"])
def test_a_flow_gives_back_what_it_was_given(source, kind, target):
    result = flow(MMD(target, Riesz()), source, step_size=0.3, momentum=0.9, num_steps=20, save_every=5)
    for name in ("particles", "values", "trajectory", "steps", "times"):
        assert isinstance(getattr(result, name), kind), name
    torch.testing.assert_close(tensor("particles", result.particles), EXPECTED.particles, rtol=0, atol=1e-12)
    assert "FlowResult([30, 2] particles, 20 steps" in repr(result)


def test_what_was_given_is_neither_changed_nor_shared():
    source = X.copy()
    result = flow(MMD(Y), source, num_steps=10, save_every=1)
    assert np.array_equal(source, X)
    assert np.array_equal(result.trajectory[0], X)
    assert not np.array_equal(result.trajectory[5], result.trajectory[-1])
    frozen = X.copy()
    frozen.setflags(write=False)
    assert np.array_equal(flow(MMD(frozen), frozen, num_steps=0).particles, X)
    held = Foreign(X.copy())
    made = tensor("x", held)
    made.zero_()
    assert np.array_equal(held.held, X)


def test_arrays_as_numpy_lays_them_out():
    for array in (X[::-1], np.asfortranarray(X), X.astype(">f8"), X.astype(np.longdouble)):
        np.testing.assert_array_equal(tensor("x", array).numpy(), np.ascontiguousarray(array, dtype=np.float64))
    assert tensor("x", [1, 2]).dtype == torch.float64
    assert tensor("x", X.astype(np.float16)).dtype == torch.float16
    assert tensor("mask", [True, False], floating=False).dtype == torch.bool


@pytest.mark.parametrize(
    ("source", "target"), [(TX.float(), TY), (TX, TY.float()), (X.astype("f4"), TY), (X, TY.float())]
)
@pytest.mark.parametrize(
    "field",
    [
        lambda y: MMD(y, Gaussian(1.0)),
        lambda y: DrMMD(y, Gaussian(1.0), 0.1),
        lambda y: SlicedMMD(y, 20, generator=torch.Generator().manual_seed(0)),
        lambda y: Drift(y, Gaussian(1.0)),
    ],
    ids=["mmd", "drmmd", "sliced", "drift"],
)
def test_dtypes_are_promoted(field, source, target):
    result = flow(field(target), source, step_size=0.1, num_steps=5)
    assert str(result.particles.dtype).endswith("float64")
    expected = flow(field(TY), TX, step_size=0.1, num_steps=5)
    np.testing.assert_allclose(np.asarray(result.particles), expected.particles.numpy(), atol=2e-5)


def test_a_field_with_weights_and_moves_is_promoted():
    result = flow(
        MMD(TY.float(), Gaussian(1.0)), X, weights=[1.0] * 30, step_size=0.5, num_steps=5, moves=Reweighting(1.0)
    )
    assert isinstance(result.weights, np.ndarray)
    assert result.weights.sum() == pytest.approx(1, abs=1e-12)


def test_a_flow_of_one_dtype_keeps_it():
    for dtype in (torch.float32, torch.float64):
        assert flow(MMD(TY.to(dtype)), TX.to(dtype), num_steps=2).particles.dtype == dtype


def test_functions_of_two_samples():
    expected = mmd2(TX, TY, Gaussian(1.0))
    for x, y in ((X, Y), (X.tolist(), Y), (X, TY), (TX, Y.tolist()), (Foreign(X), Foreign(Y)), (TX, Foreign(Y))):
        assert float(tensor("mmd2", mmd2(x, y, Gaussian(1.0)))) == pytest.approx(float(expected), rel=1e-12)
        seeded = torch.Generator().manual_seed(0)
        assert metrics.mmd_test(x, y, num_permutations=99, generator=seeded)[1] == pytest.approx(0.01)
        assert metrics.sliced_w2(x, y, generator=torch.Generator().manual_seed(0)) > 0.5
        assert metrics.frechet_distance(x, y) == pytest.approx(metrics.frechet_distance(TX, TY))
    assert isinstance(mmd2(X, Y, Gaussian(1.0)), np.float64)
    assert isinstance(mmd2(X, TY, Gaussian(1.0)), torch.Tensor)
    assert mmd2(TX.float(), TY, Gaussian(1.0)).dtype == torch.float64
    assert isinstance(mmd2_of_features(X, Y), np.float64)
    z = TX.clone().requires_grad_()
    mmd2(z, Y, Gaussian(1.0)).backward()
    assert bool((z.grad != 0).any())


def test_functions_of_one_sample():
    for function in (median_bandwidth, nearest_distance, default_bandwidth):
        assert function(X) == function(X.tolist()) == function(Foreign(X)) == function(TX)
    distances = metrics.nearest_distances(X, Y)
    assert isinstance(distances, np.ndarray)
    assert metrics.memorisation(distances, distances.tolist()).copying_z == 0
    assert metrics.manifold_scores(X, X, neighbours=3).coverage == 1
    assert metrics.kernel_distance(X, Y, subset_size=20).mean > 0
    assert [k.bandwidth for k in metrics.gaussian_scales(X)] == [k.bandwidth for k in metrics.gaussian_scales(TX)]


def test_a_divergence_of_arrays():
    divergence = MMD(Y, Gaussian(1.0), target_weights=[1] * 40)
    assert isinstance(divergence(X), np.float64)
    assert divergence(X) == pytest.approx(float(divergence(TX)), rel=1e-12)
    assert divergence(TX.float()).dtype == torch.float64
    with pytest.raises(InputError, match=r"particles has event shape \[3\]"):
        divergence([[1.0, 2.0, 3.0]])


def test_a_pipeline_gives_back_what_it_was_given():
    pipe = DMMDPipeline.from_pretrained("digits")
    source = RNG.normal(size=(3, 1, 8, 8))
    expected = pipe(particles=torch.from_numpy(source).float(), return_trajectory=True)
    for given in (source, source.astype("f4"), source.tolist()):
        out = pipe(particles=given, return_trajectory=True)
        assert isinstance(out.particles, np.ndarray)
        assert isinstance(out.trajectory, np.ndarray)
        np.testing.assert_allclose(out.particles, expected.particles.numpy(), atol=1e-5)
    assert out.images[0].size == (8, 8)
    out = pipe(2, known=np.zeros((1, 8, 8)), mask=np.eye(8, dtype=bool))
    assert isinstance(out.particles, np.ndarray)
    assert (out.particles[:, 0, np.arange(8), np.arange(8)] == 0).all()
    out = pipe(2, known=torch.zeros(1, 8, 8).double(), mask=np.eye(8, dtype=bool).tolist())
    assert out.particles.dtype == torch.float32


@pytest.mark.parametrize("name", ["digits", "mnist-onestep"])
def test_labels_are_arrays_of_any_kind(name):
    pipe, labels = load_pipeline(name), np.array([3, 1, 4])
    how = {} if name == "mnist-onestep" else {"num_levels": 2}

    def samples(given):
        return torch.as_tensor(pipe(3, labels=given, generator=torch.Generator().manual_seed(0), **how).particles)

    expected = samples(torch.from_numpy(labels))
    for given in (labels, labels.astype("i2"), labels.tolist(), Foreign(labels)):
        torch.testing.assert_close(samples(given), expected)


def test_files_take_arrays(tmp_path):
    save_points(X, tmp_path / "x.npy")
    assert torch.equal(read_points(tmp_path / "x.npy"), TX)


def test_callbacks_may_return_arrays():
    result = flow(MMD(Y), X, num_steps=3, callback=lambda step, x: np.clip(x.numpy(), 0, 1))
    assert result.particles.min() == 0


def test_jax_arrays():
    jnp = pytest.importorskip("jax.numpy")
    source = jnp.asarray(X, dtype="float32")
    result = flow(MMD(jnp.asarray(Y, dtype="float32")), source, num_steps=5, save_every=1)
    assert type(result.particles) is type(source)
    assert not bool((result.trajectory[2] == result.trajectory[-1]).all())


# Defaults


@pytest.mark.parametrize("source", ["rings", "moons"])
def test_kernel_and_step_are_chosen(source, generator):
    for scale in (1e-2, 1.0, 1e3):
        target = scale * toy(source, 200, generator)
        start = scale * 0.3 * torch.randn(100, 2, generator=generator)
        result = flow(MMD(target), start, num_steps=200)
        assert float(result.values[-1]) < 0.02 * float(result.values[0])


def test_the_default_step_is_that_of_the_command_line(generator):
    target = toy("rings", 100, generator)
    for name in KERNELS:
        divergence, step = build_divergence(DivergenceSpec("mmd", kernel=name), target, generator)
        assert divergence.usual_step() == step
    spread = float((target - target.mean(0)).square().mean().sqrt())
    assert MMD(target).usual_step() == (0.3 * spread, 0.9)
    assert MMD(target, Gaussian(0.5)).usual_step() == (0.5, 0.0)
    assert MMD(target, Linear()).usual_step() == (0.5, 0.0)
    assert SlicedMMD(target, 5).usual_step() == pytest.approx(MMD(target).usual_step(), rel=1e-6)
    assert SlicedMMD(target, 5, kernel=Gaussian(0.5)).usual_step() == (0.25, 0.0)
    assert KALE(target, Gaussian(0.5), 1.0).usual_step() == (0.125, 0.0)
    assert DrMMD(target, Gaussian(0.5), 1.0).usual_step() == (0.0625, 0.0)
    assert FDivergence(target, Gaussian(0.5), 1.0).usual_step() == (0.25, 0.0)
    assert SobolevDescent(target, Gaussian(0.5), 1.0).usual_step() == (0.1, 0.0)
    assert AdaptiveMMD(target, kernel=Gaussian).usual_step().size == pytest.approx(spread**2)


@pytest.mark.parametrize(
    "kernel",
    [Riesz, Gaussian, Laplace, partial(Matern, 2.5), partial(RationalQuadratic, 1.0), InverseMultiquadric],
)
def test_a_flow_is_the_same_in_other_units(kernel, generator):
    """Step and kernel follow the data's scale s: the particles are s times those of the flow at scale 1."""
    target, start = toy("rings", 60, generator).double(), torch.randn(30, 2, generator=generator).double()

    def particles(scale):
        chosen = kernel() if kernel is Riesz else kernel(scale)
        return flow(MMD(scale * target, chosen), scale * start, num_steps=20).particles / scale

    expected = particles(1.0)
    for scale in (1e-3, 1e3):
        torch.testing.assert_close(particles(scale), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("divergence", [KALE, DrMMD, FDivergence])
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_usual_steps_know_the_height_of_the_kernel(divergence, scale, generator):
    """That of an inverse multiquadric is 1 / scale."""
    target, start = scale * toy("rings", 60, generator), scale * torch.randn(30, 2, generator=generator)
    values = flow(divergence(target, InverseMultiquadric(scale), 1.0), start, num_steps=20).values
    assert bool((values.diff() <= 0).all())
    assert values[-1] < 0.99 * values[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-300, 1e-50, 4e35, 1e307])
def test_weights_count_by_their_shares_at_any_size(dtype, size):
    """Their sum may overflow, and each may lie beyond the points' own range."""
    shares = RNG.uniform(1, 2, len(Y))
    points = Y.astype(dtype)
    expected, found = (MMD(points, Gaussian(1.0), target_weights=weights) for weights in (shares, size * shares))
    torch.testing.assert_close(found.target_weights, expected.target_weights)
    assert float(found.target_weights.sum()) == pytest.approx(1, rel=1e-6)


def test_the_step_scales_with_the_kernel(generator):
    target = toy("rings", 100, generator)
    one, three = MMD(target).usual_step(), MMD(target, 3.0 * Riesz()).usual_step()
    assert three.size == pytest.approx(one.size / 3)
    assert three.momentum == 0.9
    assert MMD(target, Gaussian(1.0) + Gaussian(1.0)).usual_step().size == pytest.approx(1.0)


def test_chosen_settings_are_those_of_the_long_form():
    step = MMD(Y).usual_step()
    expected = flow(MMD(Y, Riesz()), X, step_size=step.size, momentum=0.9, num_steps=9)
    assert np.array_equal(flow(MMD(Y), X, num_steps=9).particles, expected.particles)
    plain = flow(MMD(Y), X, step_size=step.size, num_steps=9)  # a step of one's own comes without momentum, as before
    assert np.array_equal(plain.particles, flow(MMD(Y), X, step_size=step.size, momentum=0.0, num_steps=9).particles)
    given = flow(MMD(Y), X, integrator=Euler(0.5), num_steps=9)
    assert np.array_equal(given.particles, flow(MMD(Y), X, step_size=step.size, momentum=0.5, num_steps=9).particles)
    assert flow(MMD(Y), X, integrator="heun", num_steps=2).nfe == 4
    assert flow(MMD(Y), X, integrator="nesterov", num_steps=2).nfe == 2


# What is shown


def test_results_and_pipelines_are_short_and_draw_themselves(tmp_path):
    pytest.importorskip("matplotlib")
    result = flow(MMD(Y), X, num_steps=10, save_every=5)
    assert len(repr(result).splitlines()) == 1
    assert "<img" in result._repr_html_()
    assert result.plot(Y).size == result.plot().size == (500, 520)
    animation = result.animate(Y, path=tmp_path / "flow.gif")
    with pytest.raises(InputError, match="flow.gif: is there already; overwrite=True replaces it"):
        result.animate(Y, path=tmp_path / "flow.gif")
    result.animate(Y, path=tmp_path / "flow.gif", overwrite=True)
    assert "3 pictures" in repr(animation)
    assert "data:image/gif" in animation._repr_html_()
    assert (tmp_path / "flow.gif").stat().st_size > 1000
    for shape in ((30,), (30, 1), (30, 5), (30, 2, 3)):
        events = RNG.normal(size=shape)
        flow(MMD(events), events + 1, num_steps=1).plot(events)
    pipe = DMMDPipeline.from_pretrained("digits")
    assert 4 <= len(repr(pipe).splitlines()) <= 8
    assert "[1, 8, 8]" in repr(pipe)
    assert "<table>" in pipe._repr_html_()
    out = pipe(4)
    assert "<img" in out._repr_html_()
    assert out.plot().mode == "L"
    with pytest.raises(InputError, match="return_trajectory=True"):
        out.animate()
    assert len(pipe(2, return_trajectory=True).animate().pictures) > 10


# Messages


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: flow(MMD(Y), [[1, 2], [3]], num_steps=1),
            "particles: a list with rows of different lengths: must be a torch",
        ),
        (lambda: flow(MMD(Y), "rings", num_steps=1), "particles: must be a torch tensor, .*, got a str of text"),
        (lambda: flow(MMD(Y), None, num_steps=1), "got a NoneType of objects"),
        (lambda: MMD([["a", "b"]]), "target: must be .*, got a list of text"),
        (lambda: MMD(Y + 1j), "got a ndarray of complex numbers"),
        (lambda: MMD(np.full((2, 2), np.nan)), "target holds 4 NaN or infinite entries"),
        (lambda: MMD(Y, target_weights=[1.0]), r"target_weights has shape \[1\]: must be a tensor \[40\]"),
        (
            lambda: MMD(np.ma.masked_greater(Y, 0.5)),
            "target: [0-9]+ entries are masked; fill them, or leave their rows out",
        ),
        (lambda: MMD(TY.to_sparse()), r"target has layout torch.sparse_coo: must be dense \(call .to_dense\(\)\)"),
        (lambda: flow(MMD(Y), TX.to_sparse_csr(), num_steps=1), "particles has layout torch.sparse_csr: must be dense"),
        (lambda: MMD(TY.to("meta")), "target is on the meta device, which holds no numbers"),
        (
            lambda: MMD(torch.nested.as_nested_tensor([TY[:3], TY[:4]])),
            "target is a nested tensor: must be dense, events of one shape",
        ),
        (lambda: flow(MMD, X, num_steps=1), "field = MMD, the class: must be an object of it"),
        (
            lambda: flow(MMD(Y), X, num_steps=1, noise_injection=-1),
            "noise_injection = -1: must be a finite number >= 0",
        ),
        (
            lambda: flow(MMD(Y), X, num_steps=1, diffusion=lambda k: -1.0),
            r"diffusion\(0\) = -1.0: must be a finite number >= 0",
        ),
        (lambda: MMD(Y, Gaussian), "kernel = Gaussian, the class: must be an object of it"),
        (lambda: MMD(Y, X), r"kernel = ndarray \[30, 2\]: must be a Kernel"),
        (lambda: Gaussian(X), r"bandwidth = ndarray \[30, 2\]: must be a finite number > 0"),
        (lambda: Gaussian(TX), r"bandwidth = tensor \[30, 2\]: must be one finite number > 0"),
        (
            lambda: flow(X, MMD(Y), num_steps=1),
            "field is a ndarray and particles a velocity field: the field comes first",
        ),
        (lambda: flow(TX, MMD(Y), num_steps=1), "field is a tensor and particles a velocity field"),
        (
            lambda: flow(MMD(Y, Gaussian(1.0) * Laplace(1.0)), X, num_steps=1),
            "step_size is missing: no rule is known for MMD with kernel Product; give a number",
        ),
        (lambda: metrics.mmd_test(X, Y[:, :1]), r"x has event shape \[2\]: must be \[1\]"),
    ],
)
def test_bad_input_is_one_line(call, message, unchecked):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("MMD()", "MMD.__init__() missing 1 required positional argument: 'target'"),
        ("Gaussian()", "Gaussian.__init__() missing 1 required positional argument: 'bandwidth'"),
    ],
)
def test_forgotten_arguments_are_named_on_one_line(code, message):
    run = subprocess.run([sys.executable, "-c", f"from mmdflow import *; {code}"], capture_output=True, text=True)
    assert run.stderr.strip().splitlines()[-1] == f"TypeError: {message}"


def test_kinds_of_several():
    assert back(X, TX)(TX) is TX
    assert isinstance(back(None, X)(TX), np.ndarray)
    assert isinstance(back(Foreign(X), X)(TX), Foreign)


def test_a_kernel_without_a_rule_says_so():
    class Own(Kernel):
        def forward(self, x, y):
            return (-torch.cdist(x, y)).exp()

    assert MMD(TY, Own()).usual_step() is None
    assert mmdflow.functional.mmd2 is mmd2
