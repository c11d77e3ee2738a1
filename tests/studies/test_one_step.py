"""The study of one-step generators: verdicts on figures that are known, and a run with everything tiny."""

import importlib.util
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdflow import studies
from mmdflow.cli import main
from mmdflow.cli.train import recipe_from
from mmdflow.methods import recipe_names, recipe_path
from mmdflow.runs import cache, train
from mmdflow.runs.read import read_recipe
from mmdflow.studies.one_step import CLAIMS, ROWS, Claim, Generated, Row, compared, verdict

ROOT = Path(__file__).parents[2]


def row(report, random=None):
    return Generated({"report": report, "random": random or report}, 10.0, None)


LOW, HIGH, WIDE = row([1.0, 1.1, 0.9]), row([2.0, 2.2, 1.9]), row([0.2, 2.5, 1.0])


def test_a_row_is_better_if_both_judges_say_so_clearly():
    assert (compared(LOW, HIGH), compared(HIGH, LOW), compared(LOW, LOW)) == (-1, 1, 0)
    assert compared(WIDE, LOW) == 0
    assert (
        compared(row([1.0, 1.1, 0.9], [2.0, 2.2, 1.9]), row([2.0, 2.2, 1.9], [1.0, 1.1, 0.9])) == 0
    )  # judges disagree
    assert compared(LOW, HIGH, 0.45) == 1  # 1.0 against 0.9
    assert compared(row([1.0]), row([1.1])) == -1  # one seed has no error


def test_verdicts():
    rows = {"low": LOW, "high": HIGH, "wide": WIDE}
    assert verdict(Claim("", [("low", "high")]), rows) == "seen"
    assert verdict(Claim("", [("low", "high"), ("high", "low")]), rows) == "not seen"
    assert verdict(Claim("", [("low", "high"), ("wide", "low")]), rows) == "open"
    assert verdict(Claim("", [("wide", "low")], or_equal=True), rows) == "seen"
    assert verdict(Claim("", [("high", "low")], or_equal=True), rows) == "not seen"
    diverged = row([math.inf] * 3)
    assert verdict(Claim("", [("low", "diverged")]), {"low": LOW, "diverged": diverged}) == "seen"
    assert verdict(Claim("", [("diverged", "low")]), {"low": LOW, "diverged": diverged}) == "not seen"
    assert verdict(Claim("", [("one", "two")]), {"one": diverged, "two": diverged}) == "open"


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion"])
def test_every_row_has_a_recipe_and_every_claim_has_rows(data):
    for claim in CLAIMS:
        assert {name for pair in claim.pairs for name in pair} <= ROWS.keys()
    generator = read_recipe(f"drifting-{data}").features
    for one in ROWS.values():
        name, changes = one.recipe(data)
        assert name in recipe_names()
        recipe = read_recipe(name, changes)
        assert (recipe.data.name, recipe.features, recipe.bounded) == (data, generator, True)
    assert Row(changes={"spaces": {"recipe": "dmmd-DATA"}}).recipe("mnist")[1] == {"spaces": {"recipe": "dmmd-mnist"}}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_28x28_takes_steps(tmp_path, name):
    """A few steps of every recipe on stand-ins, with few events: finite losses, and a generator that moves."""
    recipe = recipe_on_stand_ins(tmp_path, *ROWS[name].recipe("mnist"))
    dataset = train.load_data(recipe.data)
    loss, draws = train.build_loss(recipe, dataset), torch.Generator().manual_seed(0)
    if hasattr(loss, "enter"):  # the end points of a flow
        loss.enter(0, draws)
    before = [p.detach().clone() for p in loss.generator.parameters()]
    optimiser = torch.optim.Adam(loss.parameters(), 1e-3)
    for _ in range(2):  # MMD-GAN's players take turns
        optimiser.zero_grad()
        terms = loss(dataset.train[: recipe.batch_size], draws)
        terms.check_finite()
        terms.total.backward()
        optimiser.step()
    after = list(loss.generator.parameters())
    assert all(bool(p.isfinite().all()) for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def recipe_on_stand_ins(folder, name, changes):
    """The recipe of a row on 160 random images, with the least batch."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 160), ("t10k", 20)):
        for kind, array in (
            ("images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), np.uint8)),
            ("labels-idx1-ubyte", rng.integers(0, 10, count, np.uint8)),
        ):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}").write_bytes(header + array.tobytes())
    few = read_recipe(name, changes | {"data": {"name": "mnist", "path": str(folder)}}).smallest()
    return replace(few, training=replace(few.training, batch_size=max(4, few.smallest_batch)))


def benchmark():
    spec = importlib.util.spec_from_file_location("generative", ROOT / "benchmarks" / "generative.py")
    generative = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generative)
    return generative


def test_rows_of_one_recipe_share_a_run_and_keep_their_names(tmp_path):
    """Where a recipe starts at 80 percent anyway, two rows of the study are one; neither is trained here."""
    generative, rows = benchmark(), ("batch drift", "batch drift, starts at 80 percent")
    (recipe, _, samplers), _ = (generative.SUITES["one-step-mnist"][row] for row in rows)
    folder = generative.cache.run_folder(recipe, generative.cache.timed_recipe(recipe, seed=0, seconds=9.0), tmp_path)
    folder.mkdir()
    (folder / "row-10.json").write_text(json.dumps({"row": rows[0], "options": [], "samplers": samplers}))
    found = [generative.measure("one-step-mnist", row, 0, 9.0, tmp_path, 10) for row in rows]
    assert [row["row"] for row in found] == list(rows)
    assert [row["options"] for row in found] == [[], ["--start=0.8"]]


def test_the_benchmark_trains_the_rows_of_the_study():
    """Its options on the command line give the recipe that the study trains."""
    generative = benchmark()
    suite = generative.SUITES["one-step-mnist"]
    assert suite.keys() == ROWS.keys()
    for name, (recipe, changes, samplers) in suite.items():
        assert (recipe, changes) == ROWS[name].recipe("mnist")
        assert recipe_from(recipe_path(recipe), generative.as_options(changes)) == read_recipe(recipe, changes)
        assert samplers == {"one step": {}}


def test_a_tiny_study_is_written_and_goes_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lightning")
    module = studies.module("one-step")
    few = {"batch drift": Row(), "MMD, Gaussian": Row("mmd-generator"), "MMD-GAN": Row("mmd-gan")}
    monkeypatch.setattr(module, "ROWS", few)
    claims = (
        Claim("first", [("batch drift", "MMD-GAN")]),
        Claim("second", [("batch drift", "batch drift")], or_equal=True),
    )
    monkeypatch.setattr(module, "CLAIMS", claims)
    monkeypatch.setitem(module.SCALES, "small", {"data": "digits", "seconds": 0.3, "seeds": 2, "num_samples": 40})
    assert main(["reproduce", "one-step", "-o", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "one-step.json").read_text())
    assert report["figures"]["verdicts"]["second"] == "seen"
    assert report["seen"] == (report["figures"]["verdicts"]["first"] == "seen")
    assert report["figures"]["rows"].keys() == few.keys()
    for figures in report["figures"]["rows"].values():
        assert len(figures["report"]) == len(figures["random"]) == 2
        assert figures["steps"] >= 1
    page = (tmp_path / "one-step.md").read_text()
    assert "| second | seen |" in page
    assert (tmp_path / "one-step.png").stat().st_size > 5000
    monkeypatch.setattr(cache.train, "_train", None)  # nothing is trained again
    assert main(["reproduce", "one-step", "-o", str(tmp_path), "--overwrite"]) == 0
    assert json.loads((tmp_path / "one-step.json").read_text())["figures"] == report["figures"]
