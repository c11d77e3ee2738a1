"""Every public function takes arrays of any kind, and returns the kind that it was given: the public names are walked."""

import fnmatch
import importlib
import inspect
import re

import numpy as np
import pytest
import torch

from mmdflow import (
    KALE,
    MMD,
    AdaptiveMMD,
    Divergence,
    Drift,
    DrMMD,
    FDivergence,
    FieldSum,
    Gaussian,
    KernelWitness,
    Laplace,
    Linear,
    Polynomial,
    PotentialEnergy,
    Riesz,
    SlicedMMD,
    SobolevDescent,
    ValueWitness,
    VPSchedule,
    flow,
    functional,
    kernels,
    metrics,
    ops,
    plots,
)
from mmdflow._arrays import tensor
from mmdflow.estimators import optimal_weights
from mmdflow.flows import Recording, jumps, reweighted
from tests.test_arrays import Foreign

ROOMS = ("", ".kernels", ".divergences", ".flows", ".metrics", ".noise", ".data", ".plots", ".features", ".functional")
ROOMS += (".estimators", ".ops")
ARRAY = re.compile(r"Tensor|ArrayLike|\b(Particles|Points|Weights)\b")
KINDS = {"numpy": (np.asarray, np.ndarray), "list": (np.ndarray.tolist, np.ndarray), "dlpack": (Foreign, Foreign)}

DIVERGENCES = (
    "MMD",
    "KALE",
    "DrMMD",
    "FDivergence",
    "SobolevDescent",
    "AdaptiveMMD",
    "SlicedMMD",
    "PotentialEnergy",
    "Divergence",
)

#: What takes tensors only, and why.
INNER = {
    "functions of a flow, which calls them with tensors": [
        *("*.step", "*.select", "*.start", "*.add", "*.gradient", "FlowState.*", "StopWhenIndistinguishable.__call__"),
        *("AdaptiveRegularization.__call__", "Recording.rewind"),
    ],
    "networks and losses, modules of torch, and what their training calls": [
        *("*Features.activations", "*Features.checkpoint", "*Features.heads", "*Features.outputs", "FeatureNetwork.*"),
        *("*.rescale_outputs", "DMMDLoss.*", "draw_levels", "clamped_exp", "*Conditional*.*"),
        *("*Classifier.forward", "*Features.forward"),
    ],
    "formulas that a kernel's own class gives, and parts of a sum": [
        *("*.curvature", "*.slope", "*.profile", "*.log_profile", "*_by_parts", "MMD.wide", "compiled", "sums"),
        "ranks_compiled",
    ],
    "what makes tensors of arrays": ["*.check"],
    "what a divergence's __call__ calls": [f"{name}.forward" for name in DIVERGENCES],
    "results, made of what a function returns": [
        *("FlowResult.__init__", "FitResult.__init__", "DivergedError.__init__"),
        *("Moments.__init__", "DataSet.__init__", "ImageSet.*", "Rows.*", "Snapshots.*"),
    ],
    "protocols": ["VelocityField.velocity", "Witness.*"],
}
#: Cases of other files: what they hold is as good here.
ELSEWHERE = {
    "test_arrays": [
        *(
            "flow",
            "FlowResult.*",
            "DMMDPipeline.__call__",
            "*.__call__",
            "Drift.__init__",
            "check_kernel",
            "memorisation",
        ),
        *(
            "manifold_scores",
            "gaussian_scales",
            "save_points",
            "median_bandwidth",
            "default_bandwidth",
            "nearest_distance",
        ),
        "mmd_test",
    ],
    "test_metric_objects": ["*.update"],
    "test_metrics and test_scores": ["inception_score", "frechet_*", "kernel_distance", "sliced_w2", "MMDTransport.*"],
}

RNG = np.random.default_rng(0)
X, Y, Z = RNG.normal(size=(12, 2)), RNG.normal(size=(15, 2)) + 1, RNG.normal(size=(5, 2))
W = np.full(12, 1 / 12)
IMAGES = np.tanh(RNG.normal(size=(40, 1, 8, 8)))
LABELS = np.arange(40) % 2
NAMED_KERNELS = {
    "Gaussian": Gaussian(1.0),
    "Laplace": Laplace(1.0),
    "Riesz": Riesz(),
    "Linear": Linear(),
    "Polynomial": Polynomial(2),
    "Mixture": Gaussian(1.0) + Laplace(2.0),
    "Product": Gaussian(1.0) * Laplace(2.0),
    "Matern": kernels.Matern(1.5, 1.0),
    "InverseMultiquadric": kernels.InverseMultiquadric(1.0),
    "RationalQuadratic": kernels.RationalQuadratic(2.0),
}
SMOOTH = {name: kernel for name, kernel in NAMED_KERNELS.items() if kernel.smooth}


class Second(Divergence):
    """F = E |x|^2 / 2, by its value alone: its witness is a `ValueWitness`."""

    def forward(self, x, weights=None):
        weights = x.new_full((len(x),), 1 / len(x)) if weights is None else weights
        return weights @ x.square().sum(1) / 2


def fields(dtype):
    """Return a field of every kind, whose target has a dtype."""
    y, seeded = torch.from_numpy(Y).to(dtype), torch.Generator().manual_seed(0)
    return {
        "MMD": MMD(y),
        "MMD of features": MMD(y, Linear()),
        "KALE": KALE(y, Gaussian(1.0), 0.1),
        "DrMMD": DrMMD(y, Gaussian(1.0), 0.1),
        "FDivergence": FDivergence(y, Gaussian(1.0), 0.1),
        "SobolevDescent": SobolevDescent(y, Gaussian(1.0), 0.1),
        "AdaptiveMMD": AdaptiveMMD(y, kernel=Gaussian),
        "SlicedMMD": SlicedMMD(y, 20, redraw=False, generator=seeded),
        "PotentialEnergy": PotentialEnergy(KernelWitness(Gaussian(1.0), y, -torch.ones(len(y), dtype=dtype))),
        "Divergence": Second(),
        "Drift": Drift(y, Gaussian(1.0), normalization="mean-shift"),
        "FieldSum": FieldSum([Drift(y, Gaussian(1.0)), Drift(y, Laplace(2.0))], unit_rms=True),
    }


def kernel_cases():
    for name, kernel in NAMED_KERNELS.items():
        yield f"{name}.forward", lambda c, k=kernel: k(c(X), c(Y))
        yield f"{name}.grad", lambda c, k=kernel: k.grad(c(X), c(Y), c(np.ones((12, 15))))
        yield f"{name}.diag", lambda c, k=kernel: k.diag(c(X))
        yield f"{name}.tangent", lambda c, k=kernel: k.tangent(c(X), c(Y), c(Y))
        if kernel.finite:
            yield f"{name}.embed", lambda c, k=kernel: k.embed(c(X))
    for name, kernel in SMOOTH.items():
        yield f"{name}.mixed", lambda c, k=kernel: k.mixed(c(X), c(Y))
        yield f"{name}.tangent_grad", lambda c, k=kernel: k.tangent_grad(c(X), c(Y), c(Y))
    yield "Gaussian.log", lambda c: Gaussian(1.0).log(c(X), c(Y))


def field_cases():
    held = fields(torch.float64)
    for name, field in held.items():
        yield f"{name}.velocity", lambda c, f=field: f.velocity(c(X))
        if name != "Divergence":
            yield f"{name}.velocity at", lambda c, f=field: f.velocity(c(X), c(Z), c(W))
        if isinstance(field, Divergence):
            yield f"{name}.__call__", lambda c, f=field: f(c(X), c(W))
            yield f"{name}.witness", lambda c, f=field: f.witness(c(X), c(W))(c(Z))
            yield f"{name}.witness grad", lambda c, f=field: f.witness(c(X)).grad(c(Z))
    for name in ("KALE", "FDivergence"):
        yield f"{name}.solve", lambda c, f=held[name]: f.solve(c(X)).weights.numpy()
    yield "AdaptiveMMD.at", lambda c: held["AdaptiveMMD"].at(c(X))(c(X))
    yield "KernelWitness.__call__", lambda c: KernelWitness(Gaussian(1.0), c(X), c(W))(c(Z))
    yield "KernelWitness.grad", lambda c: KernelWitness(Gaussian(1.0), c(X), c(W)).grad(c(Z))
    yield "ValueWitness.__call__", lambda c: ValueWitness(Second(), c(X), c(W))(c(Z))
    yield "ValueWitness.grad", lambda c: ValueWitness(Second(), c(X), c(W)).grad(c(Z))
    of_sinkhorn = {"normalization": "sinkhorn"}
    yield (
        "Drift.__init__",
        lambda c: Drift(c(Y), Gaussian(1.0), negatives=c(Z), negative_weights=c(W[:5])).velocity(c(X)),
    )
    yield "Drift second", lambda c: Drift(c(Y), Gaussian(1.0), second=c(Z), **of_sinkhorn).velocity(c(X))
    yield "MMD.from_landmarks", lambda c: MMD.from_landmarks(c(Z), c(Y), Gaussian(1.0))(c(X))
    yield "MMD.from_mean_embedding", lambda c: MMD.from_mean_embedding(c(Y.mean(0)), Linear())(c(X))


def recording(c):
    recorded = Recording(MMD(c(Y), Gaussian(1.0)))
    flow(recorded, c(X), step_size=0.1, num_steps=1)
    return recorded.replay().velocity(c(Z))


def classifier(c):
    judge = metrics.train_classifier(c(IMAGES), LABELS.tolist(), c(IMAGES), LABELS, num_steps=1, cache=False)
    return judge.probabilities(judge.features(c(IMAGES)))


def function_cases():
    kernel = Gaussian(1.0)
    yield "squared_distances", lambda c: kernels.squared_distances(c(X), c(Y))
    yield "thinned", lambda c: kernels.thinned(c(X), 5)
    yield "mmd2", lambda c: functional.mmd2(c(X), c(Y), kernel)
    yield "mmd2_of_features", lambda c: functional.mmd2_of_features(c(X), c(Y))
    yield "kernel_sum", lambda c: ops.kernel_sum(kernel, c(X), c(Y), c(np.ones(15)))
    yield "kernel_sum_grad", lambda c: ops.kernel_sum_grad(kernel, c(X), c(Y), c(np.ones(15)))
    yield "sum_and_grad", lambda c: ops.sum_and_grad(kernel, kernel, c(X), c(Y), c(np.ones(15)))[1]
    yield "tangent_sum", lambda c: ops.tangent_sum(kernel, c(X), c(Y), c(Y))
    yield "tangent_sum_grad", lambda c: ops.tangent_sum_grad(kernel, c(X), c(Y), c(Y))
    yield "optimal_weights", lambda c: optimal_weights(MMD(c(Y), kernel), c(X))
    yield "reweighted", lambda c: reweighted(c(X[:, 0]), c(W), 0.1)
    yield "jumps", lambda c: jumps(c(X[:, 0]), 5.0, torch.Generator().manual_seed(0))
    yield "nearest_distances", lambda c: metrics.nearest_distances(c(X), c(Y))
    for name in ("alpha", "sigma"):
        yield f"Schedule.{name}", lambda c, name=name: getattr(VPSchedule(), name)(c(np.linspace(0, 1, 5)))
    yield "Schedule.displacement", lambda c: VPSchedule().displacement(c(np.linspace(0, 1, 5)), 1.0)
    yield "Schedule.add_noise", lambda c: VPSchedule().add_noise(c(X), c(X[::-1].copy()), c(np.linspace(0, 1, 12)))
    yield "Recording.velocity", lambda c: Recording(MMD(c(Y), Gaussian(1.0))).velocity(c(X))
    yield "Replay.velocity", recording
    yield "train_classifier", classifier
    yield "RandomFeatures.of", lambda c: metrics.RandomFeatures.of([c(IMAGES)]).features(c(IMAGES))


CASES = {name: case for cases in (kernel_cases, field_cases, function_cases) for name, case in cases()}
#: The same, whose result is no array: pictures.
PICTURES = {
    "picture": lambda c: plots.picture(c(X)),
    "scatter": lambda c: plots.scatter(c(X)),
    "image_grid": lambda c: plots.image_grid(c(IMAGES)),
    "above_each_other": lambda c: plots.above_each_other(c(IMAGES), c(IMAGES)),
    "trajectory_grid": lambda c: plots.trajectory_grid(c(IMAGES[None])),
    "particle_pictures": lambda c: plots.particle_pictures(c(X[None]), c(Y), ["start"])[0],
    "flow_pictures": lambda c: plots.flow_pictures(c(X[None]), [0], c(Y))[0],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_arrays_give_what_tensors_give_in_their_kind(name, kind):
    convert, expected_kind = KINDS[kind]
    expected, result = CASES[name](torch.from_numpy), CASES[name](convert)
    if isinstance(expected, torch.Tensor):
        assert isinstance(result, expected_kind if expected.ndim or kind == "dlpack" else np.generic)
    np.testing.assert_allclose(tensor("result", result), tensor("result", expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_drawn_of_any_array(name):
    pytest.importorskip("matplotlib")
    pixels = [
        np.asarray(PICTURES[name](convert)) for convert in (torch.from_numpy, np.asarray, np.ndarray.tolist, Foreign)
    ]
    for of_kind in pixels[1:]:
        np.testing.assert_array_equal(of_kind, pixels[0])


@pytest.mark.parametrize("name", fields(torch.float32))
def test_witnesses_of_float32_take_float64(name):
    """NumPy's arrays are float64, a network's data float32: points of either are evaluated, and come back as they were."""
    field, wide = (fields(dtype)[name] for dtype in (torch.float32, torch.float64))
    x = X.astype(np.float32)
    velocity = field.velocity(X)
    assert isinstance(velocity, np.ndarray)
    np.testing.assert_allclose(velocity, wide.velocity(X), atol=2e-4)
    if isinstance(field, Divergence):
        for of_x in (field.witness(X), field.witness(x), field.witness(torch.from_numpy(x))):
            exact = wide.witness(X)
            for points in (Z, torch.from_numpy(Z), Z.astype(np.float32)):
                assert of_x.grad(points).dtype == of_x(points).dtype == points.dtype
                np.testing.assert_allclose(np.asarray(of_x.grad(points)), exact.grad(Z), atol=2e-4)
                np.testing.assert_allclose(np.asarray(of_x(points)), exact(Z), atol=2e-4)


def public():
    """Yield the names of public functions and methods that have an array among their parameters."""
    seen = set()
    for room in ROOMS:
        module = importlib.import_module(f"mmdflow{room}")
        for name in getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]:
            value = getattr(module, name)
            if id(value) in seen or not str(getattr(value, "__module__", "")).startswith("mmdflow"):
                continue
            seen.add(id(value))
            if inspect.isclass(value):
                for method, function in inspect.getmembers(value, callable):
                    ours = str(getattr(function, "__module__", "")).startswith("mmdflow")
                    if (
                        ours
                        and (method in ("__init__", "__call__") or not method.startswith("_"))
                        and arrays_of(function)
                    ):
                        yield f"{name}.{method}"
            elif callable(value) and arrays_of(value):
                yield name


def arrays_of(function):
    """Return the parameters of a function that are arrays, by their annotations."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if ARRAY.search(str(p.annotation)) and "Callable" not in str(p.annotation)]


#: Methods that are tested on one class for all: decorated where the base class makes its subclasses.
ONCE = (
    "*Schedule.*",
    "Kernel.*",
    "Radial.*",
    "Deep.*",
    "*.mixed",
    "*.log",
    "*.embed",
    "*.tangent_grad",
    "*Features.features",
)
ONCE += ("*.probabilities", "*.of", "*.of_batches", "*.features", "*Witness.__init__", "*.__init__", "save_*")


def test_every_public_name_is_tried_or_told_why_not():
    tried = {name.partition(" ")[0] for name in (*CASES, *PICTURES)}
    patterns = [*ONCE, *(p for group in (*INNER.values(), *ELSEWHERE.values()) for p in group)]
    left = [n for n in public() if n not in tried and not any(fnmatch.fnmatch(n, p) for p in patterns)]
    assert not left, f"takes arrays, and is not tried: {sorted(left)}"


def test_no_reason_outlives_its_name():
    names = set(public())
    stale = [p for group in INNER.values() for p in group if not any(fnmatch.fnmatch(name, p) for name in names)]
    assert not stale, f"names that are gone: {stale}"
