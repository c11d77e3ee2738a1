"""The estimators keep scikit-learn's promises, and new points follow the flow of the fitted ones."""

import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import mmdflow
from mmdflow import (
    MMD,
    Drift,
    Gaussian,
    InputError,
    KernelTwoSampleTest,
    MMDQuantizer,
    MMDTransport,
    Riesz,
    SlicedMMD,
    flow,
)
from mmdflow.estimators import optimal_weights
from mmdflow.flows import AdamsBashforth, Heun, Recording, Rest, Reweighting

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 2)), RNG.normal(size=(80, 2)) * [0.5, 2.0] + 3
NEW = RNG.normal(size=(7, 2))


@parametrize_with_checks(
    [
        MMDTransport(num_steps=5),
        MMDTransport(num_steps=5, kernel=Gaussian(2.0)),
        MMDQuantizer(3, num_steps=6),
        MMDQuantizer(3, move=False),
        KernelTwoSampleTest(num_permutations=20),
    ]
)
def test_scikit_learns_own_checks(estimator, check, unchecked):
    check(estimator)


# Sums within a tolerance


def test_large_tables_are_moved_by_quick_sums_which_a_word_turns_off(monkeypatch, caplog):
    monkeypatch.setattr("mmdflow.ops.dispatch.SMALL", 0)
    monkeypatch.setattr("mmdflow.ops.fast.LEAST", 0)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2500, 2)), random.normal(size=(2500, 2)) + 1
    usual, exact = (MMDTransport(kernel=Gaussian(1.0), num_steps=3, tolerance=word) for word in ("auto", None))
    with caplog.at_level("INFO", "mmdflow"):
        usual.fit(x, y)
    assert usual.sums_.quick > 0
    assert "tolerance=None sums exactly" in caplog.text
    exact.fit(x, y)
    assert exact.sums_ is None
    for rows in (x, NEW):
        assert 0 < np.abs(usual.transform(rows) - exact.transform(rows)).max() < 1e-3
    with pytest.raises(InputError, match="tolerance = 'none': must be a finite number > 0, 'auto', or None"):
        MMDTransport(tolerance="none").fit(x, y)


# New points along the same flow


@pytest.mark.parametrize("integrator", ["euler", "nesterov", "adam", Heun(), AdamsBashforth()])
def test_a_replay_knows_every_integrator(integrator):
    replayed(lambda: MMD(Y, Gaussian(1.0)), integrator)


@pytest.mark.parametrize(
    "field",
    [
        lambda: MMD(Y, Gaussian(1.0) + 0.5 * Gaussian(3.0)),
        lambda: SlicedMMD(Y, 6, kernel=Gaussian(1.0), generator=torch.Generator().manual_seed(0)),
        lambda: SlicedMMD(Y, 6, kernel=Gaussian(1.0)),
        lambda: Drift(Y, Gaussian(1.0), normalization="mean-shift", self_terms=True),
    ],
    ids=["mixture", "sliced", "sliced by torch's generator", "drift"],
)
def test_a_replay_knows_every_field(field):
    replayed(field, "nesterov")


def replayed(field, integrator):
    """The replay itself, which knows nothing of who was there before: kernels without a corner let it be exact."""
    torch.manual_seed(0)  # for the field that draws by it
    momentum = {"momentum": 0.7} if isinstance(integrator, str) else {}
    settings = {"step_size": 0.2, "num_steps": 12, "integrator": integrator, **momentum}
    recording = Recording(field())
    moved = flow(recording, X, **settings).particles
    if not (isinstance(recording.field, SlicedMMD) and recording.field.generator is None):
        np.testing.assert_array_equal(moved, flow(field(), X, **settings).particles)
    assert np.abs(moved - X).min() > 1e-3
    np.testing.assert_allclose(flow(recording.replay(), X, **settings).particles, moved, rtol=0, atol=1e-6)
    np.testing.assert_allclose(flow(recording.replay(), X[5:7], **settings).particles, moved[5:7], rtol=0, atol=1e-6)


def test_a_new_point_is_a_particle_without_mass():
    """The replay is the limit of the flow in which the new particle has weight 0."""
    settings = {"step_size": 0.3, "num_steps": 15, "momentum": 0.5}
    recording = Recording(MMD(Y, Gaussian(1.0)))
    flow(recording, X, **settings)
    new = flow(recording.replay(), NEW, **settings).particles
    weights = np.r_[np.ones(len(X)), np.zeros(len(NEW))]
    together = flow(MMD(Y, Gaussian(1.0)), np.r_[X, NEW], weights=weights, **settings).particles
    np.testing.assert_allclose(new, together[len(X) :], rtol=0, atol=1e-9)


def test_a_replay_ends_with_its_recording():
    recording = Recording(MMD(Y, Gaussian(1.0)))
    flow(recording, X, step_size=0.1, num_steps=3)
    with pytest.raises(InputError, match="the recorded flow made 3 evaluations"):
        flow(recording.replay(), X, step_size=0.1, num_steps=4)


# MMDTransport


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kernel": "gaussian"},
        {"kernel": Gaussian(1.0), "integrator": Heun()},
        {"divergence": "sliced"},
        {"divergence": "sliced", "kernel": Gaussian(1.0)},
        {"divergence": "drmmd"},
        {"divergence": "kale", "num_steps": 4},
        {"divergence": "adaptive", "num_steps": 4},
        {"divergence": lambda y: Drift(y, Gaussian(2.0)), "step_size": 0.2},
        {"divergence": MMD},
    ],
)
def test_fitted_points_come_back_exactly(settings):
    transport = MMDTransport(**({"num_steps": 12, "random_state": 0} | settings))
    moved = transport.fit_transform(X, Y)
    np.testing.assert_array_equal(transport.transform(X), moved)
    order = RNG.permutation(len(X))[:20]
    np.testing.assert_allclose(transport.transform(X[order]), moved[order], rtol=0, atol=1e-6)
    mixed = transport.transform(np.r_[NEW, X[:3]])
    np.testing.assert_array_equal(mixed[len(NEW) :], moved[:3])
    np.testing.assert_allclose(transport.transform(NEW), mixed[: len(NEW)], rtol=0, atol=1e-9)
    assert np.abs(mixed[: len(NEW)] - NEW).min() > 0


def test_the_transport_is_the_flow():
    moved = MMDTransport(num_steps=50).fit_transform(X, Y)
    np.testing.assert_array_equal(moved, flow(MMD(Y), X, num_steps=50, momentum=0.0).particles)
    chosen = MMDTransport(kernel=Gaussian(1.0), num_steps=50, step_size=0.3, momentum=0.5).fit(X, Y)
    expected = flow(MMD(Y, Gaussian(1.0)), X, step_size=0.3, momentum=0.5, num_steps=50)
    np.testing.assert_array_equal(chosen.moved_, expected.particles)
    assert chosen.values_ == pytest.approx(expected.values)


def test_a_new_row_lands_where_its_neighbours_do():
    """With momentum, which the transport has not by default, particles swing past each other, and new rows beyond the target."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(100, 2)), rng.normal(size=(200, 2)) + 3
    transport = MMDTransport(num_steps=300).fit(source, target)
    assert np.abs(transport.transform([[0.0, 0.0]]) - 3).max() < 0.5


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": "gaussian"},
        {"kernel": Gaussian(1.0), "integrator": Heun()},
        {"divergence": "sliced", "kernel": Gaussian(1.0)},
        {"divergence": lambda y: Drift(y, Gaussian(2.0)), "step_size": 0.2},
    ],
)
def test_a_transport_goes_back(settings):
    transport = MMDTransport(**({"num_steps": 6, "random_state": 0} | settings)).fit(X, Y)
    np.testing.assert_array_equal(transport.inverse_transform(transport.moved_[::-1]), X[::-1])
    moved = transport.transform(NEW)
    back = transport.inverse_transform(np.r_[moved, transport.moved_[:2]])
    np.testing.assert_allclose(back, np.r_[NEW, X[:2]], rtol=0, atol=1e-9)
    single = MMDTransport(**({"num_steps": 6, "random_state": 0} | settings)).fit(X.astype(np.float32), Y)
    np.testing.assert_allclose(single.inverse_transform(single.transform(NEW.astype(np.float32))), NEW, atol=1e-3)


def test_what_has_no_way_back_is_told():
    swinging = MMDTransport(kernel="gaussian", num_steps=5, momentum=0.5).fit(X, Y)
    np.testing.assert_array_equal(swinging.inverse_transform(swinging.moved_), X)
    with pytest.raises(InputError, match="momentum = 0.5 with inverse_transform of new rows: must be 0"):
        swinging.inverse_transform(NEW)
    remembering = MMDTransport(kernel="gaussian", num_steps=5, integrator="adams_bashforth").fit(X, Y)
    with pytest.raises(InputError, match="its steps depend on the steps before"):
        remembering.inverse_transform(NEW)
    few = MMDTransport(num_steps=3, step_size=0.5).fit([[-1.0], [1.0]], [[5.0], [6.0]])
    beside = few.moved_[:1] + 0.01  # each particle repels what is near it by a step: nothing comes to lie so near
    with pytest.raises(
        InputError, match=r"no start is found for 1 of 2 rows, row 1 the first: the flow is not one to one"
    ):
        few.inverse_transform(np.r_[few.moved_[:1], beside])


def test_points_of_a_quantizer_settle_on_atoms():
    x = np.array([[0.0]] * 30 + [[5.0]] * 10)
    few = MMDQuantizer(2, init=[[1.0], [4.0]], num_steps=1000).fit(x)  # the energy distance has a corner at each
    np.testing.assert_allclose(few.points_.ravel(), [0, 5], atol=0.01)
    np.testing.assert_allclose(few.weights_, [0.75, 0.25], atol=0.005)


def test_new_points_land_in_the_target():
    transport = MMDTransport(num_steps=100).fit(X, Y)
    new = RNG.normal(size=(200, 2))
    assert MMD(Y)(transport.transform(new)) < 0.05 * MMD(Y)(new)


def test_equal_rows_come_back_each_in_its_place():
    rows = np.r_[X[:5], X[:5], X[2:3]]
    transport = MMDTransport(num_steps=20)
    moved = transport.fit_transform(rows, Y)
    np.testing.assert_array_equal(transport.transform(rows), moved)
    np.testing.assert_array_equal(moved, transport.moved_)


def test_the_default_target_is_normal():
    skewed = RNG.exponential(size=(150, 2)) + np.array([5, -5])
    transport = MMDTransport(num_steps=60, random_state=0)
    moved = transport.fit_transform(skewed)
    fresh = RNG.normal(size=(500, 2))
    assert MMD(fresh)(moved) < 0.02 * MMD(fresh)(skewed)
    np.testing.assert_array_equal(clone(transport).fit_transform(skewed), moved)


def test_a_target_of_ones_own_is_not_replaced_by_labels_in_columns():
    """A pipeline hands on what it regresses: [n, d] labels are no target where there is one."""
    rng = np.random.default_rng(0)
    X, reference = rng.normal(size=(40, 2)), rng.normal(size=(50, 2))
    plain = MMDTransport(target=reference, num_steps=20, random_state=0).fit(X)
    for labels in (X + 100, np.zeros((40, 3))):
        handed = MMDTransport(target=reference, num_steps=20, random_state=0).fit(X, labels)
        np.testing.assert_array_equal(handed.transform(X), plain.transform(X))
    with pytest.raises(ValueError, match="y has 3 columns: must be 2, as X has"):
        MMDTransport(num_steps=20).fit(X, np.zeros((40, 3)))
    with pytest.raises(ValueError, match="Input y contains NaN"):
        MMDTransport(num_steps=20).fit(X, np.full((40, 2), np.nan))


def test_a_transport_in_a_pipeline():
    labels = (X[:, 0] > 0).astype(int)
    model = make_pipeline(StandardScaler(), MMDTransport(target=Y, num_steps=50), LogisticRegression())
    assert model.fit(X, labels).predict(NEW).shape == (7,)
    np.testing.assert_array_equal(model[1].moved_, MMDTransport(num_steps=50).fit(model[0].transform(X), Y).moved_)


@pytest.mark.parametrize("divergence", ["mmd", "sliced"])
def test_a_fitted_transport_is_pickled(divergence):
    transport = MMDTransport(divergence, num_steps=10, random_state=0).fit(X, Y)
    again = pickle.loads(pickle.dumps(transport))
    np.testing.assert_allclose(again.transform(NEW), transport.transform(NEW), rtol=0, atol=1e-12)


def test_pandas_in_pandas_out():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b"], index=[f"row {i}" for i in range(len(X))])
    target = pandas.DataFrame(Y, columns=["a", "b"])
    moved = MMDTransport(num_steps=10).set_output(transform="pandas").fit(frame, target).transform(frame)
    assert list(moved.columns) == ["a", "b"]
    assert (moved.index == frame.index).all()
    np.testing.assert_array_equal(moved.to_numpy(), MMDTransport(num_steps=10).fit_transform(X, Y))
    with pytest.raises(ValueError, match="feature names"):
        MMDTransport(num_steps=1).fit(frame, target[["b", "a"]])
    np.testing.assert_array_equal(
        flow(MMD(target), frame, num_steps=5).particles, flow(MMD(Y), X, num_steps=5).particles
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "mdm"}, "divergence = 'mdm': must be one of .*; did you mean 'mmd'"),
        ({"kernel": "gausian"}, "kernel = 'gausian': must be one of .*; did you mean 'gaussian'"),
        ({"target": "uniform"}, "target = 'uniform': must be one of normal"),
        ({"num_steps": 0}, "num_steps = 0: must be an integer >= 1"),
        ({"integrator": "adaptive"}, "integrator = 'adaptive': its steps depend on all rows"),
        ({"divergence": 3}, "divergence = 3, kernel = None: must be a name, or a function"),
        ({"divergence": MMD, "kernel": Riesz()}, "which then comes without kernel"),
        ({"divergence": "adaptive", "kernel": Riesz()}, "kernel with divergence = 'adaptive': must be the name"),
    ],
)
def test_bad_settings_are_one_line(settings, message, unchecked):
    with pytest.raises(InputError, match=message) as error:
        MMDTransport(**settings).fit(X)
    assert "\n" not in str(error.value)


def test_a_target_of_other_columns_is_refused():
    with pytest.raises(ValueError, match="y has 3 columns: must be 2, as X has"):
        MMDTransport().fit(X, np.ones((4, 3)))


# MMDQuantizer


def test_best_weights_meet_the_conditions_of_an_optimum():
    """w minimises over the simplex where the witness is least, and equal, on its support (Karush, Kuhn, Tucker)."""
    points = np.r_[RNG.normal(size=(12, 2)) + 3, [[30.0, 30.0]]]
    for kernel in (Gaussian(1.0), Riesz(), Gaussian(0.5) + Riesz(0.5)):
        divergence = MMD(Y, kernel)
        weights = optimal_weights(divergence, points)
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()
        p, w = torch.from_numpy(points), torch.from_numpy(weights)
        slope = divergence.witness(p, w)(p)
        support = w > 1e-9
        assert float(slope[support].max() - slope[support].min()) < 1e-6
        assert float(slope.min()) > float(slope[support].max()) - 1e-6
        best = float(divergence(p, w))
        for _ in range(20):
            other = torch.from_numpy(RNG.dirichlet(np.ones(len(points))))
            assert best <= float(divergence(p, other)) + 1e-12


def test_best_weights_are_the_end_of_a_flow_of_weights():
    points = np.array([[3.0, 1.0], [3.0, 3.0], [3.0, 5.0], [9.0, 9.0]])
    divergence = MMD(Y, Gaussian(1.0))
    ended = flow(divergence, points, step_size=1.0, num_steps=200, integrator=Rest(), moves=Reweighting(3.0))
    np.testing.assert_array_equal(ended.particles, points)
    np.testing.assert_allclose(ended.weights, optimal_weights(divergence, points), atol=1e-3)


def test_weights_that_cannot_move_are_told():
    with pytest.raises(InputError, match=r"step_size = 0 with Reweighting: .*integrator=Rest\(\)"):
        flow(MMD(Y, Gaussian(1.0)), X, step_size=0.0, num_steps=3, moves=Reweighting(1.0))


def test_a_few_points_stand_for_many():
    sample = np.r_[RNG.normal(size=(150, 2)), RNG.normal(size=(50, 2)) * 0.3 + 4]
    values = {}
    for name, settings in {
        "drawn": {"move": False, "num_steps": 1},
        "moved": {"weighted": False, "num_steps": 90},
        "both": {"num_steps": 90},
    }.items():
        fitted = MMDQuantizer(15, random_state=0, **settings).fit(sample)
        assert fitted.points_.shape == (15, 2)
        assert fitted.weights_.sum() == pytest.approx(1)
        p, w = torch.from_numpy(fitted.points_), torch.from_numpy(fitted.weights_)
        values[name] = float(MMD(sample)(p, w))
        assert fitted.value_ == pytest.approx(values[name])
    uniform = float(MMD(sample)(torch.from_numpy(MMDQuantizer(15, move=False, random_state=0).fit(sample).points_)))
    assert values["both"] < values["moved"] < values["drawn"] < uniform


def test_pure_reweighting_keeps_its_points():
    fitted = MMDQuantizer(10, init=X[:10], move=False).fit(X)
    np.testing.assert_array_equal(fitted.points_, X[:10])
    assert fitted.weights_.std() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_points": 61}, "n_points = 61: must be at most n_samples = 60"),
        ({"n_points": 2, "init": X[:3]}, "init has 3 points: must have n_points = 2"),
        ({"move": False, "weighted": False}, "one must be true, or nothing is chosen"),
        ({"init": "kmeans"}, "init = 'kmeans': must be one of sample"),
    ],
)
def test_bad_quantizers_are_one_line(settings, message, unchecked):
    with pytest.raises(InputError, match=message):
        MMDQuantizer(**settings).fit(X)


# KernelTwoSampleTest


def test_the_test_is_the_functions():
    test = KernelTwoSampleTest("median", random_state=0, num_permutations=99).fit(X)
    same, other = test.test(RNG.normal(size=(50, 2))), test.test(Y)
    assert not same.rejected
    assert other.rejected
    assert other.p_value == pytest.approx(0.01)
    assert test.test(Y) == other
    assert KernelTwoSampleTest([Gaussian(1.0), Gaussian(2.0)]).fit(X).test(Y).rejected
    for options in (
        {"block_size": 20},
        {"tolerance": 1e-3},
        {"method": "random-features", "num_features": 30},
        {"method": "linear-time"},
    ):
        assert KernelTwoSampleTest("median", random_state=0, **options).fit(X).test(Y).rejected
    with pytest.raises(InputError, match="kernel = 'scale': must be one of scales, median"):
        KernelTwoSampleTest("scale").fit(X)


def test_without_scikit_learn_the_rest_works():
    assert "MMDTransport" not in mmdflow.__all__
    assert mmdflow.MMDTransport is MMDTransport
