"""Tables and ablations of the DMMD paper: run as users run them, tiny; their criteria on figures whose verdict is known."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mmdflow import DMMDPipeline, studies
from mmdflow.cli import main
from mmdflow.data import images, load
from mmdflow.errors import InputError
from mmdflow.evaluation import distance
from mmdflow.evaluation.distance import open_judge, open_judges
from mmdflow.methods.dmmd import SamplerSettings
from mmdflow.metrics import frechet_distance
from mmdflow.metrics.extractors import ModuleExtractor
from mmdflow.runs import cache as runs
from mmdflow.runs.read import read_recipe
from mmdflow.studies import _models, _study
from mmdflow.studies._models import Measured, lower, measure
from mmdflow.studies._tables import markdown, published
from mmdflow.studies.ablation_particles import velocity_differences
from mmdflow.studies.table2 import judged
from tests.test_image_recipes import SMALL_UNET, stand_ins

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion": (1, 28, 28), "cifar10": (3, 32, 32)}
SHAPES |= {"celeba64": (3, 64, 64), "church64": (3, 64, 64)}
FEW = {"features": "own", "num_samples": 10, "draws": 2, "particles": 10}
TINY = {
    "table1": FEW | {"data": ["digits"], "seconds": 0.2},
    "table2": FEW | {"data": ["digits"]},
    "table3": FEW | {"data": ["digits"], "seconds": 0.2},
    "ablation-nfe": FEW | {"levels": [2, 100], "steps": [1, 2]},
    "ablation-particles": {
        "features": "own",
        "num_samples": 3,
        "draws": 2,
        "particles": [1, 200],
        "rate_particles": [1, 16],
        "repeats": 2,
    },
    "ablation-kernels": FEW | {"seconds": 0.2, "num_references": 20, "num_levels": 2},
}


@pytest.mark.parametrize("name", TINY)
def test_a_table_is_written_with_published_figures_marked(tmp_path, monkeypatch, name):
    pytest.importorskip("lightning")
    module = studies.module(name)
    monkeypatch.setattr(runs, "read_recipe", quick)
    monkeypatch.setitem(module.SCALES, "small", module.SCALES["small"] | TINY[name])
    assert main(["reproduce", name, "-o", str(tmp_path)]) == 0
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert report["seen"] == all(report["figures"]["criteria"].values())
    assert report["figures"]["judges" if name.startswith("table") else "judge"]
    page = (tmp_path / f"{name}.md").read_text()
    assert report["table"] in page
    assert "(not comparable)" in page
    assert f"**Verdict: {'seen' if report['seen'] else 'not seen'}.**" in page
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


def quick(name, changes=None):
    """Read a recipe with a network and a run that take seconds."""
    network = dict(option.removeprefix("--features.").split("=") for option in SMALL_UNET)
    network = {field: json.loads(value) for field, value in network.items()}
    fields = dict(changes or {})
    recipe = read_recipe(name, fields)
    few = {"max_steps": 1, "accelerator": "cpu"}
    few |= {"events_per_level": 4} if name.startswith("dmmd") else {"batch_size": 4}
    fields["training"] = {**fields.get("training", {}), **few}
    fields["features"] = {**fields.get("features", {}), **(network if recipe.features.network == "unet" else {})}
    if name.startswith("dmmd"):
        fields["loss"] = {**fields.get("loss", {}), "num_levels": 2}
        fields["sampling"] = {**fields.get("sampling", {}), "mean_levels": 2, "mean_events": 4, "num_levels": 2}
    return read_recipe(name, fields)


FULL = {
    "table1": {},
    "table2": {},
    "table3": {"data": ["celeba64", "church64"]},
    "ablation-nfe": {"levels": [2, 100], "steps": [1]},
    "ablation-particles": {"rate_particles": [1, 4], "repeats": 1, "points": 2, "particles": [1, 200]},
    "ablation-kernels": {"num_references": 5, "num_levels": 2},
}


class Corner(nn.Module):
    """In the place of Inception, which is not installed here."""

    def forward(self, x):
        return x[:, :, 0, :2].flatten(1)


@pytest.fixture
def corner(monkeypatch):
    """Have features asked for by any name computed by `Corner`; return the names and devices."""
    asked = []

    def extractor(name, device):
        asked.append((name, device))
        return ModuleExtractor(Corner(), "corner", channels=3)

    monkeypatch.setattr(distance, "feature_extractor", extractor)
    return asked


@pytest.fixture
def full_data(tmp_path, monkeypatch):
    """Have random images in the place of CIFAR-10, CelebA and Church, which has no held-out ones."""
    for data, side in {"cifar10": 32, "celeba64": 64, "church64": 64}.items():
        stand_ins(tmp_path / "data" / data, side, labels=False)
    (tmp_path / "data" / "church64" / "test.npz").unlink()
    monkeypatch.setenv("MMDFLOW_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MMDFLOW_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("name", "features"), [*((name, None) for name in FULL), ("table2", "own")])
def test_full_scale_runs_on_stand_in_images(tmp_path, monkeypatch, full_data, corner, name, features):
    """The paper's configuration, wiring only: random images, networks and runs shrunk, samples drawn by two steps."""
    pytest.importorskip("lightning")
    pytest.importorskip("diffusers")
    monkeypatch.setattr(runs, "read_recipe", quick)
    module = studies.module(name)
    few = {"num_samples": 2, "draws": 1} | ({} if "particles" in FULL[name] else {"particles": 2})
    monkeypatch.setitem(module.SCALES, "full", module.SCALES["full"] | few | FULL[name])
    asked = []

    def two_steps(pipeline, num_samples, particles, seed, **how):
        asked.append((particles, how))
        how["num_levels"] = 2
        return draw(pipeline, 2, 2, seed, **how)

    draw = _models.models.draw_samples
    monkeypatch.setattr(_models.models, "draw_samples", two_steps)
    how = [] if features is None else [f"--features={features}"]
    assert main(["reproduce", name, "--scale=full", "-o", str(tmp_path / "out"), *how]) == 0
    report = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert (report["scale"], report["settings"]["features"]) == ("full", features or "inception")
    assert corner == ([] if features else [("inception", "cuda" if torch.cuda.is_available() else "cpu")])
    assert ("sliced W_2" if features else "corner") in json.dumps(report["figures"])
    assert report["command"].endswith("--features own") is bool(features)
    assert ("not comparable" in report["table"]) is bool(features)
    assert asked
    if name == "table3":
        assert report["figures"]["held_out"]["celeba64"] > 0
        assert report["figures"]["held_out"]["church64"] is None


def test_runs_are_found_again_and_told_apart(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    short = {"training": {"max_steps": 2}, "sampling": {"mean_levels": 2}}
    first = runs.trained("dmmd-digits", tmp_path, seed=0, progress=False, changes=short)
    (folder,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(runs.train, "open_run", lambda *a, **k: pytest.fail("a second run"))
        again = runs.trained("dmmd-digits", tmp_path, seed=0, progress=False, changes=short)
    assert again.provenance == first.provenance
    runs.trained("dmmd-digits", tmp_path, seed=1, progress=False, changes=short)
    assert len(list(tmp_path.iterdir())) == 2
    (folder / "pipeline").rename(folder / "gone")  # interrupted after its last checkpoint
    resumed = runs.trained("dmmd-digits", tmp_path, seed=0, progress=False, changes=short)
    assert resumed.provenance["steps"] == 2
    assert len(list(tmp_path.iterdir())) == 2


def rows(**means):
    """Return rows of three draws whose paired differences have no spread."""
    return {
        name.replace("_", "-"): Measured([mean - 1, mean, mean + 1], 50, torch.empty(0)) for name, mean in means.items()
    }


def test_criteria_of_table_2():
    paper = rows(DMMD=8.0, a_DMMD=24.0, a_DMMD_a=9.5, a_DMMD_e=9.0, DMMD_e=7.5)
    assert all(judged(paper).values())
    assert not judged(paper | rows(a_DMMD_a=30.0))["a-DMMD is worst"]
    assert not judged(paper | rows(a_DMMD_e=20.0))["a-DMMD-e closes the gap"]
    assert not judged(paper | rows(DMMD_e=0.2))["DMMD-e gains little"]


def test_lower_pairs_the_draws():
    near, far = Measured([1.0, 11.0], 1, torch.empty(0)), Measured([2.0, 12.0], 1, torch.empty(0))
    assert lower(near, far)  # the spread of draws is 5, that of differences 0
    assert not lower(far, near)
    noisy = Measured([0.0, 13.0], 1, torch.empty(0))
    assert not lower(noisy, far)
    assert math.isnan(Measured([1.0], 1, torch.empty(0)).error)
    assert str(near) == "6 ± 5"


def test_the_judge_knows_held_out_images_from_noise():
    judge = open_judge("digits")
    assert judge.held_out(359) < 0.1 * judge(torch.randn(359, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert judge.unit == "digits, FD"


def test_features_judge_by_the_protocol_of_the_data(full_data, corner):
    """The Frechet distance of all images of the reference's part, which is 0 for themselves."""
    judges, missing = open_judges(["celeba64", "church64", "mnist"], "inception")
    assert missing.endswith("missing: mnist.")
    judge = judges["celeba64"]
    test, train = (images("celeba64", part).tensor() for part in ("test", "train"))
    assert judge(test) == pytest.approx(0, abs=1e-6)  # Franceschi et al.: against the test split
    features = [x[:, :, 0, :2].flatten(1) for x in (train, test)]
    assert judge(train) == pytest.approx(frechet_distance(*features), rel=1e-6)
    assert judge.held_out(1000) == pytest.approx(judge(train), rel=1e-6)
    assert judge(2 * train) == pytest.approx(judge((2 * train).clamp(-1, 1)), rel=1e-6)
    assert (judge.unit, judge.num_samples) == ("celeba64, FID", 19_962)
    church = judges["church64"]
    assert church(images("church64").tensor()) == pytest.approx(0, abs=1e-6)
    assert math.isnan(church.held_out(5))
    cifar = open_judge("cifar10", "inception")
    assert published(cifar) == "published, CIFAR-10 FID"
    for other in (church, open_judge("cifar10"), open_judge("cifar10", "timm:vit")):
        assert published(other).endswith("(not comparable)")
    assert not open_judge("cifar10", "timm:vit").fid
    with pytest.raises(InputError, match="samples of celeba64 holds 147456 NaN"):
        judge(torch.full_like(test, math.nan))


def test_missing_features_are_told_before_training(tmp_path, monkeypatch, capsys, full_data):
    monkeypatch.setattr(runs.train, "train", lambda *a, **k: pytest.fail("trained"))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert main(["reproduce", "table1", "--scale=full", "-o", str(tmp_path / "out")]) == 1
    assert "pip install torch-fidelity, or choose other features; --features=own judges" in capsys.readouterr().err
    for command, why in (
        (["table1", "--features=resnet"], "features = 'resnet'"),
        (["three-rings", "--features=own"], "features = 'own': three-rings does not judge by features"),
        (["all", "--features=own"], "features = 'own': is for one reproduction"),
    ):
        assert main(["reproduce", *command, "-o", str(tmp_path / "out")]) == 2
        assert why in capsys.readouterr().err


def test_a_draw_takes_whole_runs_and_the_asked_samples():
    pipeline, judge = DMMDPipeline.from_pretrained("digits"), open_judge("digits")
    found = measure(pipeline, judge, num_samples=7, draws=2, particles=5, seed=3, num_levels=2)
    assert len(found.values) == 2
    expected = pipeline(5, num_levels=2, generator=torch.Generator().manual_seed(3000)).particles
    assert torch.equal(found.samples[:5], expected)


@pytest.mark.parametrize("t", [0.3, 0.8])
def test_exact_and_approximate_velocity_agree_as_particles_grow(t):
    pipeline = DMMDPipeline.from_pretrained("digits")
    few, many = velocity_differences(pipeline, load("digits").train, t, [4, 400], 20, 8, seed=0)
    assert few / many == pytest.approx(10, rel=0.35)


def test_markdown():
    assert markdown(["a", "b"], [["x", 1]]).splitlines()[1:] == ["|---|---|", "| x | 1 |"]


def test_recipes_are_read_with_changes():
    recipe = read_recipe("ddpm-digits", {"training": {"betas": [0.5, 0.6]}, "schedule": "vp"})
    assert (recipe.training.betas, recipe.schedule, recipe.training.batch_size) == ((0.5, 0.6), "vp", 128)
    with pytest.raises(InputError, match="recipe dmmd-digits: a field has the wrong name"):
        read_recipe("dmmd-digits", {"training": {"steps": 1}})
    with pytest.raises(InputError, match="training.max_steps = 0"):
        read_recipe("dmmd-digits", {"training": {"max_steps": 0}})
    with pytest.raises(InputError, match="dmmd-digit"):
        read_recipe("dmmd-digit")


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion", "cifar10", "celeba64", "church64"])
def test_the_paper_s_recipe_is_one(data):
    """DMMD paper, Algorithms 1 and 2: flat features, unit penalty at interpolates, l2, T x N_s constant steps."""
    recipe = read_recipe(f"dmmd-paper-{data}")
    assert (recipe.schedule, recipe.base.name, recipe.features.head) == ("vp", "linear", "flat")
    loss, sampling = recipe.loss, recipe.sampling
    assert (loss.form, loss.penalty_points, loss.pairing, loss.normalize) == (
        "penalty",
        "interpolate",
        "disjoint",
        False,
    )
    assert loss.l2_weight > 0
    assert loss.unit_weight >= math.sqrt(
        math.prod(SHAPES[data])
    )  # the slope's excess then falls as 1 / (2 d_t) at most
    assert (sampling.num_levels, sampling.steps_per_level, sampling.sampler) == (10, 10, "exact")
    assert isinstance(sampling.step_size, float)
    assert sampling.final_steps == 0
    assert recipe.evaluation.particles_per_run == 200


def test_a_walk_over_other_levels_has_the_same_length():
    own = SamplerSettings(num_levels=10, steps_per_level=10, step_size=0.4, final_steps=2)
    assert _models.walk(own, 50, 1) == {"num_levels": 50, "steps_per_level": 1, "step_size": pytest.approx(0.8)}
    assert _models.walk_of(own, 252) == {
        "num_levels": 25,
        "steps_per_level": 10,
        "step_size": pytest.approx(0.16),
    }
    by_distance = SamplerSettings(num_levels=50, final_steps=2)
    assert _models.walk_of(by_distance, 102) == {"num_levels": 100, "steps_per_level": 1}


@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_a_table_says_which_files_are_missing(tmp_path, monkeypatch, name):
    monkeypatch.setenv("MMDFLOW_DATA", str(tmp_path))
    table = studies.module(name)
    settings = table.SCALES["small"] | TINY[name] | {"data": ["celeba64", "church64"]}
    with pytest.raises(InputError, match="no folder .*celeba64.*; .*church64"):
        table.run(**settings, runs=Path(tmp_path), seed=0, progress=False)


def test_a_table_leaves_out_data_without_files_and_names_them(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MMDFLOW_DATA", str(tmp_path))
    table = studies.module("table2")
    found = table.run(**FEW | {"data": ["digits", "mnist"]}, runs=Path(tmp_path), seed=0, progress=False)
    assert found.figures["left_out"] == ["mnist"]
    assert found.finding.endswith("Left out, their files are missing: mnist.")
    assert list(found.figures["rows"]) == ["digits"]
    assert "mnist" not in found.table
    assert "left out: mnist: " in caplog.text  # before anything is trained


def test_table3_is_not_seen_on_a_part_of_its_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDFLOW_DATA", str(tmp_path))
    table = studies.module("table3")
    model = SimpleNamespace(provenance={"train_seconds": 1}, defaults=SamplerSettings())
    better = iter(range(9))
    monkeypatch.setattr(_study, "trained", lambda *_, **__: model)
    monkeypatch.setattr(
        _study, "measure", lambda *_, **__: Measured([10.0 - next(better)], 100, torch.zeros(64, 1, 8, 8))
    )
    settings = table.SCALES["small"] | TINY["table3"]
    for data, seen in ((["digits"], True), (["digits", "mnist"], False)):
        found = table.run(**settings | {"data": data}, runs=tmp_path, seed=0, progress=False)
        assert found.figures["criteria"] == {"digits": True}
        assert found.seen is seen


def test_every_small_scale_has_enough_draws_to_judge():
    for name in TINY:
        assert studies.module(name).SCALES["small"]["draws"] >= 2
        assert np.isfinite(studies.module(name).SCALES["small"].get("seconds", 0))
