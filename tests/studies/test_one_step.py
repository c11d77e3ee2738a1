"""The study of one-step generators: verdicts on figures that are known, and a run with everything tiny."""

import json
import math

import pytest

from mmdflow import studies
from mmdflow.cli import main
from mmdflow.methods import recipe_names
from mmdflow.runs import cache
from mmdflow.runs.read import read_recipe
from mmdflow.studies.one_step import CLAIMS, ROWS, Claim, Generated, Row, compared, verdict


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


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_every_row_has_a_recipe_and_every_claim_has_rows(data):
    for claim in CLAIMS:
        assert {name for pair in claim.pairs for name in pair} <= ROWS.keys()
    for one in ROWS.values():
        name, changes = one.recipe(data)
        assert name in recipe_names()
        recipe = read_recipe(name, changes)
        assert recipe.data.name == data
    assert Row(changes={"spaces": {"recipe": "dmmd-DATA"}}).recipe("mnist")[1] == {"spaces": {"recipe": "dmmd-mnist"}}


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
