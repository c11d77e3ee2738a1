"""`mmdflow flow` and `mmdflow reproduce` as a stranger uses them."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmdflow import studies
from mmdflow.cli import main
from mmdflow.data import read_points
from mmdflow.divergences.drifts import NORMALIZATIONS
from tests.test_cli import complaint

pytest.importorskip("matplotlib")
QUICK = ["--num_steps=6", "--num_particles=20", "--num_targets=25", "--frames=3", "--overwrite"]
NAMES = ("mmd", "sliced", "kale", "drmmd", "f-divergence", "sobolev", "adaptive")


@pytest.mark.parametrize("name", NAMES)
def test_every_divergence_flows(name, tmp_path, capsys):
    save = tmp_path / "particles.npy"
    assert main(["flow", "--target=rings", f"--divergence.name={name}", f"--save={save}", *QUICK]) == 0
    assert read_points(save).shape == (20, 2)
    out = capsys.readouterr().out
    assert "F " in out
    assert "MMD test p = " in out


@pytest.mark.parametrize(
    "kernel",
    [
        "riesz",
        "gaussian",
        "laplace",
        "matern-3/2",
        "matern-5/2",
        "inverse-multiquadric",
        "rational-quadratic",
        "linear",
    ],
)
def test_every_kernel_flows(kernel, tmp_path, capsys):
    names = ("mmd",) if kernel in ("laplace", "linear") else ("mmd", "sliced")
    for name in names:
        arguments = [f"--divergence={name}", f"--divergence.kernel={kernel}", f"--save={tmp_path / 'p.csv'}"]
        assert main(["flow", *arguments, *QUICK, "--num_steps=60"]) == 0
        start, end = (float(word) for word in re.findall(r"F +(\S+) -> (\S+) in", capsys.readouterr().out)[0])
        assert end < start


def test_a_tolerance_makes_sums_quick_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmdflow.ops.dispatch.SMALL", 0)
    monkeypatch.setattr("mmdflow.ops.fast.LEAST", 0)
    arguments = [
        "flow",
        "--divergence.kernel=gaussian",
        "--divergence.bandwidth=1",
        "--num_particles=2500",
        "--num_steps=3",
    ]
    arguments += ["--num_targets=2500", "--frames=1"]
    said = {}
    for name, more in (("quick", ["--tolerance=1e-3"]), ("usual", []), ("exact", ["--tolerance=none"])):
        assert main([*arguments, f"--save={tmp_path / name}.npy", *more]) == 0
        said[name] = re.findall("sums .*", capsys.readouterr().out)
    assert re.fullmatch(r"sums     [1-9]\d* quick, largest error \de-0[3-9]; \d+ exact", *said["quick"])
    usual = r"sums     [1-9]\d* quick, .*\(--tolerance=0.0001 by default; --tolerance=none sums exactly\)"
    assert re.fullmatch(usual, *said["usual"])
    assert said["exact"] == []
    quick, usual, exact = (np.load(tmp_path / f"{name}.npy") for name in ("quick", "usual", "exact"))
    assert 0 < np.abs(quick - exact).max() < 1e-2
    assert 0 < np.abs(usual - exact).max() < 1e-3


@pytest.fixture
def four_columns(tmp_path):
    """A file of points of four columns, for which there are no quick sums."""
    np.save(tmp_path / "four.npy", np.random.default_rng(0).normal(size=(40, 4)))
    return f"--target={tmp_path / 'four.npy'}"


def test_by_default_a_flow_takes_what_no_quick_sums_are_for(four_columns, tmp_path, capsys, monkeypatch):
    """Nothing is refused, and nothing said, where all sums are exact."""
    monkeypatch.setattr("mmdflow.ops.dispatch.SMALL", 0)
    for more in (["--divergence.kernel=gaussian"], ["--divergence=kale"], ["--divergence=drift"]):
        assert main(["flow", four_columns, f"--save={tmp_path / 'p.npy'}", *QUICK, *more]) == 0
        assert "sums" not in capsys.readouterr().out


def test_the_hint_at_the_cost_of_pairs_is_for_sums_over_pairs(four_columns, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmdflow.cli.flow._MUCH", 0)
    for target, word, said in (("rings", "auto", False), ("rings", "none", True), (four_columns[9:], "auto", True)):
        options = [f"--target={target}", f"--tolerance={word}", "--divergence.kernel=gaussian"]
        assert main(["flow", *options, f"--save={tmp_path / 'p.npy'}", *QUICK]) == 0
        assert ("large    20 rows" in capsys.readouterr().out) == said


def test_snapshots_of_a_flow(tmp_path, capsys):
    file = tmp_path / "moves.npy"
    arguments = ["flow", f"--snapshots={file}", *QUICK, f"--save={tmp_path / 'p.npy'}"]
    assert main(arguments) == 0
    assert f"{file}" in capsys.readouterr().out
    made = np.load(file, mmap_mode="r")
    assert made.shape == (4, 20, 2)
    np.testing.assert_array_equal(made[-1], np.load(tmp_path / "p.npy"))
    assert main(arguments) == 0  # with --overwrite
    without = [argument for argument in arguments if argument != "--overwrite" and "--save" not in argument]
    assert main(without) == 2
    assert f"{file}: is there already" in capsys.readouterr().err
    assert main(["flow", f"--snapshots={tmp_path / 'a.csv'}", *QUICK]) == 2
    assert "must end in .npy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tolerance=0"], "tolerance = 0"),
        (["--tolerance=1e-3", "--divergence.kernel=linear"], None),
        (["--tolerance=1e-3"], None),  # Riesz in the plane
    ],
)
def test_tolerances_that_do_not_fit(arguments, message, tmp_path, capsys):
    code = main(["flow", f"--save={tmp_path / 'p.npy'}", *QUICK, *arguments])
    assert code == (0 if message is None else 2)
    assert message is None or message in capsys.readouterr().err


@pytest.mark.parametrize("options", NORMALIZATIONS)
def test_every_drift_flows_and_shows_no_value(options, tmp_path, capsys):
    save, drift = tmp_path / "p.npy", ["--divergence.name=drift", f"--divergence.normalization={options}"]
    assert main(["flow", "--target=rings", *drift, f"--save={save}", *QUICK]) == 0
    assert read_points(save).shape == (20, 2)
    assert "F        none in 6 steps" in capsys.readouterr().out


def test_a_drift_brings_particles_to_the_target(tmp_path, capsys):
    """The bandwidth falls over the steps; in the end a two-sample test cannot tell the particles from held-out samples."""
    drift = ["--divergence.name=drift", "--divergence.bandwidth=1", "--divergence.final_bandwidth=0.1"]
    arguments = ["--target=rings", *drift, "--num_particles=200", "--num_targets=400", "--num_steps=150"]
    assert main(["flow", *arguments, f"--save={tmp_path / 'p.npy'}"]) == 0
    assert "cannot be told" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--divergence.kernel=riesz"],
            "divergence.kernel = 'riesz' with divergence.name = 'drift': must have a companion",
        ),
        (["--divergence.final_bandwidth=0"], "divergence.final_bandwidth = 0.0: must be a finite number > 0"),
        (["--divergence.normalization=soft"], "divergence.normalization = 'soft': must be one of 'none', 'mean-shift'"),
        (["--birth_death=1"], "BirthDeath with field Drift: the field must have a witness"),
        (["--divergence.regularization=1"], "must not be given; its fields are name, kernel, bandwidth, normalization"),
    ],
)
def test_bad_drifts(arguments, message, tmp_path, capsys, unchecked):
    assert main(["flow", "--divergence.name=drift", *arguments, f"--save={tmp_path / 'p.npy'}", *QUICK]) == 2
    assert message in capsys.readouterr().err


def test_the_widest_numbers_of_source_and_target_are_kept(tmp_path):
    """A source in float64 loses no digit to a target of whole numbers, which become float32."""
    source, target, moved = (tmp_path / f"{name}.npy" for name in ("source", "target", "moved"))
    points = np.random.default_rng(0).normal(size=(10, 2)) + 123456789.0
    np.save(source, points)
    np.save(target, np.arange(40).reshape(20, 2))
    arguments = ["flow", f"--source={source}", f"--target={target}", f"--save={moved}", "--step_size=1e-12"]
    assert main([*arguments, "--num_steps=1"]) == 0
    found = np.load(moved)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, points, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save=a.npy", "--snapshots=a.npy"], "a.npy: is given for two outputs; each needs a file of its own"),
        (["--save=./a.npy", "--snapshots=b/../a.npy"], "a.npy: is given for two outputs"),
        (["--save=taken/a.npy"], "taken: cannot be made (File exists)"),
        (["-o=taken/a.png"], "taken: cannot be made (File exists)"),
        (
            ["--source=few.npy", "--num_particles=31", "--save=a.npy"],
            "num_particles = 31 with source = 'few.npy': must be at most 30",
        ),
        (
            ["--target=few.npy", "--num_targets=31", "--save=a.npy"],
            "num_targets = 31 with target = 'few.npy': must be at most 30",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_the_flow(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file, no folder")
    np.save("few.npy", np.random.default_rng(0).normal(size=(30, 2)))
    target = [] if any("--target" in argument for argument in arguments) else ["--target=rings"]
    assert main(["flow", *target, *arguments, "--num_steps=3"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.npy", "taken"]


def test_a_table_that_cannot_be_written_is_said_before_the_flow(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmdflow.data.points.find_spec", lambda name: None)
    Path("a.csv").write_text("x,y\n1,2\n3,4\n")
    assert main(["flow", "--source=a.csv", "--target=a.csv", "--save=b.parquet", "--num_steps=3"]) == 1
    captured = capsys.readouterr()
    assert "b.parquet: parquet files need pyarrow" in captured.err
    assert "moves" not in captured.out


def test_too_few_rows_for_a_test_are_said(tmp_path, capsys):
    np.save(tmp_path / "few.npy", np.random.default_rng(0).normal(size=(30, 2)))
    arguments = ["flow", f"--target={tmp_path / 'few.npy'}", "--num_targets=29", f"--save={tmp_path / 'a.npy'}"]
    assert main([*arguments, "--num_steps=3"]) == 0
    assert "no test: --num_targets=29 leaves fewer than two rows" in capsys.readouterr().out


def test_pictures_and_animations(tmp_path):
    for ending in ("png", "gif"):
        assert main(["flow", "--target=moons", "-o", str(tmp_path / f"flow.{ending}"), *QUICK]) == 0
    with Image.open(tmp_path / "flow.gif") as gif:
        assert gif.n_frames == 4
    with Image.open(tmp_path / "flow.png") as png:
        assert png.size[0] > 300


@pytest.mark.parametrize("shape", [(40, 1), (40, 5), (40, 1, 8, 8)])
def test_points_of_any_shape(shape, tmp_path):
    target = tmp_path / "target.npy"
    np.save(target, np.random.default_rng(0).normal(size=shape))
    output = tmp_path / "flow.png"
    assert main(["flow", f"--target={target}", "-o", str(output), "--save", str(tmp_path / "end.npz"), *QUICK]) == 0
    particles = read_points(tmp_path / "end.npz")
    assert particles.shape == (20, *shape[1:])
    assert particles.dtype == torch.float64


def test_cells_as_a_target(tmp_path, capsys):
    anndata = pytest.importorskip("anndata")
    pca = np.random.default_rng(0).normal(size=(40, 3))
    anndata.AnnData(obsm={"X_pca": pca}).write_h5ad(tmp_path / "cells.h5ad")
    save = tmp_path / "p.npy"
    assert main(["flow", f"--target={tmp_path / 'cells.h5ad'}#X_pca", f"--save={save}", *QUICK]) == 0
    assert read_points(save).shape == (20, 3)
    capsys.readouterr()
    other = tmp_path / "q.npy"
    message = complaint(capsys, ["flow", f"--target={tmp_path / 'cells.h5ad'}#X_umap", f"--save={other}"])
    assert "#X_umap: no such entry of obsm: must be one of X_pca" in message


def test_cells_come_back_into_a_copy_of_their_file(tmp_path, capsys):
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    pca = rng.normal(size=(30, 3))
    names = [f"cell-{i}" for i in rng.permutation(30)]
    obs = pandas.DataFrame({"batch": pandas.Categorical(["a", "b", "c"] * 10)}, index=names)
    cells = anndata.AnnData(
        X=rng.poisson(1.0, (30, 4)).astype(np.float32), obs=obs, obsm={"X_pca": pca}, uns={"note": "kept"}
    )
    cells.layers["counts"] = cells.X.copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    np.save(tmp_path / "target.npy", pca + 2)
    steps = ["--num_steps=40", f"--target={tmp_path / 'target.npy'}"]
    saved = tmp_path / "moved.h5ad"
    assert main(["flow", f"--source={tmp_path / 'cells.h5ad'}#X_pca", f"--save={saved}", *steps]) == 0
    assert "the particles go to the entry X_pca of obsm" in capsys.readouterr().out
    moved = anndata.read_h5ad(saved)
    assert moved.obs_names.tolist() == names
    assert moved.obs["batch"].tolist() == obs["batch"].tolist()
    assert moved.uns["note"] == "kept"
    np.testing.assert_array_equal(moved.layers["counts"], cells.X)
    np.testing.assert_allclose(moved.obsm["X_pca"].mean(0), pca.mean(0) + 2, atol=0.2)
    alone = tmp_path / "moved.npy"
    assert main(["flow", f"--source={tmp_path / 'cells.h5ad'}#X_pca", f"--save={alone}", *steps]) == 0
    np.testing.assert_array_equal(moved.obsm["X_pca"], np.load(alone))
    assert (tmp_path / "cells.h5ad").read_bytes() == before

    np.save(tmp_path / "target.npy", rng.poisson(3.0, (30, 4)))
    assert main(["flow", f"--source={tmp_path / 'cells.h5ad'}", f"--save={saved}", "--overwrite", *steps]) == 0
    assert anndata.read_h5ad(saved).obsm["X_moved"].shape == (30, 4)
    np.testing.assert_array_equal(anndata.read_h5ad(saved).obsm["X_pca"], pca)
    few = [
        "flow",
        f"--source={tmp_path / 'cells.h5ad'}",
        f"--save={tmp_path / 'few.h5ad'}",
        "--num_particles=5",
        *steps,
    ]
    capsys.readouterr()
    assert main(few) == 2
    assert "5 rows for the 30 cells of" in capsys.readouterr().err
    assert not (tmp_path / "few.h5ad").exists()
    message = complaint(capsys, ["flow", "--target=rings", f"--save={tmp_path / 'p.h5ad'}"])
    assert "p.h5ad: must end in .npy, .npz, .csv, .pt" in message


def test_pictures_as_targets_and_sources(tmp_path):
    picture = tmp_path / "disc.png"
    Image.fromarray(np.where(np.hypot(*np.mgrid[-9:10, -9:10]) < 8, 0, 255).astype(np.uint8)).save(picture)
    save = tmp_path / "p.npy"
    assert main(["flow", f"--target={picture}", "--source=checkerboard", f"--save={save}", *QUICK]) == 0
    assert main(["flow", "--target=checkerboard", f"--source={picture}", f"--save={save}", *QUICK]) == 0


def test_the_seed_decides_everything(tmp_path):
    runs = []
    for i, seed in enumerate((1, 1, 2)):
        save = tmp_path / f"{i}.npy"
        arguments = [f"--seed={seed}", f"--save={save}", "--noise_injection=0.3", "--birth_death=1"]
        assert main(["flow", *arguments, *QUICK]) == 0
        runs.append(read_points(save))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_flow_stops_by_its_test(tmp_path, capsys):
    save = tmp_path / "p.npy"
    arguments = ["--num_steps=400", "--num_particles=60", "--num_targets=80", "--stop_level=0.05", f"--save={save}"]
    assert main(["flow", "--target=moons", *arguments]) == 0
    assert int(capsys.readouterr().out.split(" in ")[1].split()[0]) < 400


def test_the_default_step_follows_the_scale_of_the_data(tmp_path, capsys):
    from mmdflow.data import toy

    for scale in (1e-3, 1e4):
        file = tmp_path / "rings.npy"
        np.save(file, scale * toy("rings", 200, torch.Generator().manual_seed(0)).double().numpy())
        for name in ("mmd", "sliced", "drmmd"):
            arguments = [
                "--num_steps=60",
                "--num_particles=60",
                "--num_targets=100",
                f"--save={tmp_path / 'p.npy'}",
                "--overwrite",
            ]
            assert main(["flow", f"--target={file}", f"--divergence={name}", *arguments]) == 0
            start, end = (float(word) for word in re.findall(r"F +(\S+) -> (\S+) in", capsys.readouterr().out)[0])
            assert end < 0.6 * start


def test_samples_that_no_test_takes_are_saved_all_the_same(tmp_path):
    np.save(tmp_path / "constant.npy", np.ones((60, 2)))
    save = tmp_path / "p.npy"
    assert main(["flow", f"--target={tmp_path / 'constant.npy'}", "--divergence=sliced", f"--save={save}", *QUICK]) == 0
    assert read_points(save).shape == (20, 2)
    np.save(tmp_path / "channels.npy", np.random.default_rng(0).normal(size=(60, 5, 4, 4)))
    arguments = [f"--target={tmp_path / 'channels.npy'}", "-o", str(tmp_path / "p.png")]
    assert main(["flow", *arguments, *QUICK]) == 0


def test_an_interrupted_flow_saves_what_it_reached(tmp_path, capsys, monkeypatch):
    def interrupted(divergence, x, *, callback, **settings):
        callback[0](7, x + 1)
        raise KeyboardInterrupt

    monkeypatch.setattr("mmdflow.runs.particles.flow", interrupted)
    save = tmp_path / "p.npy"
    assert main(["flow", f"--save={save}", *QUICK]) == 130
    err = capsys.readouterr().err
    assert f"Saved the particles of step 7 in {save}; go on with the same options and --source={save}" in err
    assert read_points(save).shape == (20, 2)
    assert main(["flow", "-o", str(tmp_path / "p.png"), *QUICK]) == 130
    assert "Nothing saved" in capsys.readouterr().err


def test_fields_may_come_from_a_file(tmp_path):
    config = tmp_path / "flow.yaml"
    config.write_text("target: moons\nnum_steps: 3\ndivergence:\n  name: drmmd\n  regularization: 0.5\n")
    assert main(["flow", f"--config={config}", f"--save={tmp_path / 'p.npy'}", "--num_particles=5"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "output is missing"),
        (["-o", "x.txt"], "not the ending of a picture"),
        (["--save", "x.txt"], "must end in .npy, .npz, .csv, .pt"),
        (["--target=ring", "-o", "x.png"], "did you mean 'rings'"),
        (["--source=gausian", "-o", "x.png"], "did you mean 'gaussian'"),
        (["--target=none.npy", "-o", "x.png"], "none.npy: no such file"),
        (["--target=none.png", "-o", "x.png"], "none.png: no such file"),
        (["--num_steps=0", "-o", "x.png"], "num_steps = 0"),
        (["--step_size=-1", "-o", "x.png"], "step_size = -1"),
        (["--momentum=1", "-o", "x.png"], "momentum = 1"),
        (["--divergence.name=mmdd", "-o", "x.png"], "divergence.name = 'mmdd': must be one of"),
        (["--divergence=kale", "--divergence.regularization=0", "-o", "x.png"], "divergence.regularization = 0"),
        (["--divergence=f-divergence", "--divergence.entropy=tsallis", "-o", "x.png"], "divergence.alpha = None"),
        (
            ["--divergence=kale", "--divergence.kernel=riesz", "-o", "x.png"],
            "kernel = Riesz: must be positive definite",
        ),
        (
            ["--divergence.alpha=2", "-o", "x.png"],
            "divergence.alpha = 2.0 with divergence.name = 'mmd' and kernel riesz",
        ),
        (["--divergence.bandwidth=2", "-o", "x.png"], "must not be given; its fields are name, kernel, exponent"),
        (["--divergence=sliced", "--divergence.kernel=laplace", "-o", "x.png"], "must be smooth and a scale mixture"),
        (["--divergence=sliced", "--divergence.kernel=linear", "-o", "x.png"], "must be a radial kernel"),
        (["--divergence=sliced", "--divergence.rule=median", "-o", "x.png"], "its fields are name, kernel, exponent"),
        (["--divergence=adaptive", "--divergence.kernel=riesz", "-o", "x.png"], "must have a bandwidth"),
        (["--step_size=nan", "-o", "x.png"], "step_size = 'nan': must be a finite number"),
        (
            ["--divergence.rule=best", "-o", "x.png"],
            "divergence.rule = 'best': must be one of 'optimal', 'gradient', 'median'",
        ),
        (["--num_steps=1e3", "-o", "x.png"], "num_steps = '1000.0': must be int"),
        (["--num_steps=99999999999999999999", "-o", "x.png"], "must be an integer >= 1 and < 2^63"),
        (["--divergence.nme=mmd", "-o", "x.png"], "--divergence.nme: no such field; did you mean 'divergence.name'"),
        (["--divergence.name=sobolev", "--divergence.kernel=laplace", "-o", "x.png"], "mixed second derivative"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    assert message in complaint(capsys, ["flow", *arguments])
    assert list(tmp_path.iterdir()) == []


def test_missing_matplotlib_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("mmdflow.runs.particles.flow", lambda *a, **k: pytest.fail("worked"))
    monkeypatch.setattr(studies.module("mode-seeking"), "run", lambda **k: pytest.fail("worked"))
    for arguments in (["flow", "-o", str(tmp_path / "p.png")], ["reproduce", "mode-seeking", "-o", str(tmp_path)]):
        assert "needs matplotlib: pip install 'mmdflow[plots]'" in complaint(capsys, arguments, code=1)


@pytest.mark.parametrize(
    ("command", "explanations"),
    [
        ("flow", ["A particle flow:", "a file of points gives as many random rows", "of riesz and sliced, in (0, 2)"]),
        ("train", ["noise levels a step", "hidden layers (mlp, decoder)"]),
    ],
)
def test_help_explains_every_field(command, explanations, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "<class" not in shown
    assert all(text in shown for text in explanations)


def test_reproductions_are_listed(capsys):
    assert main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in studies.NAMES)


@pytest.mark.parametrize("name", studies.NAMES)
def test_every_reproduction_has_its_parts(name):
    module = studies.module(name)
    assert set(module.SCALES) == {"small", "full"}
    assert module.SCALES["small"].keys() == module.SCALES["full"].keys()
    assert "\n" not in module.TITLE


def test_a_reproduction_writes_its_figure_and_figures(tmp_path, capsys, monkeypatch):
    from tests.studies.test_mode_seeking import TINY

    monkeypatch.setitem(studies.module("mode-seeking").SCALES, "small", TINY)
    assert main(["reproduce", "mode-seeking", "-o", str(tmp_path)]) == 0
    assert "verdict: " in capsys.readouterr().out
    report = json.loads((tmp_path / "mode-seeking.json").read_text())
    assert report["settings"].keys() == TINY.keys()
    assert report["command"] == "mmdflow reproduce mode-seeking --scale small --seed 0"
    assert isinstance(report["seen"], bool)
    with Image.open(tmp_path / "mode-seeking.png") as picture:
        assert picture.size[0] > 300
    assert len(list(tmp_path.iterdir())) == 2


def test_bad_reproductions_are_one_line(capsys, unchecked):
    assert "did you mean 'three-rings'" in complaint(capsys, ["reproduce", "three-ring"])
    assert "scale = 'large': must be one of small, full" in complaint(
        capsys, ["reproduce", "three-rings", "--scale=large"]
    )
    assert "seed = -1" in complaint(capsys, ["reproduce", "three-rings", "--seed=-1"])
