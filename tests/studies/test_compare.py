"""`mmdflow compare`: equal terms, nothing done twice, a table that says what was found."""

import dataclasses
import json

import pytest
import torch

from mmdflow import DivergedError, InputError
from mmdflow.cli import main
from mmdflow.methods import all_methods
from mmdflow.studies import compare as module
from mmdflow.studies.compare import (
    METHODS,
    ComparisonSettings,
    Method,
    budget_seconds,
    compare,
    methods_for,
    order,
    page,
)

pytest.importorskip("lightning")
pytest.importorskip("diffusers")
from mmdflow.evaluation import models
from mmdflow.runs import train as run

TWO = ["ddpm", "flow-matching"]


@pytest.fixture(autouse=True)
def _judged_by_few(monkeypatch):
    """Judge by fewer points than there are, which takes a tenth of the time."""
    judged = models.judged_data

    def few(spec):
        whole = judged(spec)
        return dataclasses.replace(whole, train=whole.train[:500], test=whole.test[:200])

    monkeypatch.setattr(models, "judged_data", few)


def go(folder, **fields):
    return compare(ComparisonSettings("checkerboard", 0.3, num_samples=40, **{"methods": TWO, **fields}), folder)


def test_every_system_is_compared():
    assert {method.system for method in METHODS.values()} == all_methods().keys()
    assert methods_for("digits") == list(METHODS)
    ours = [name for name in METHODS if not name.endswith("-paper")]
    assert len(ours) == len(METHODS) - 3
    for data in ("mnist", "fashion", "checkerboard"):
        assert methods_for(data) == ours


def test_a_comparison_leaves_what_it_promises_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "c"
    command = ["compare", "--data=checkerboard", "--budget=0.3s", "-n=40", f"--output={folder}", f"--methods={TWO}"]
    assert main(command) == 0
    out = capsys.readouterr().out
    result = json.loads((folder / "compare.json").read_text())
    assert result["rows"].keys() == set(TWO)
    assert result["budget_seconds"] == 0.3
    for name, row in result["rows"].items():
        assert (row["seeds"], row["diverged"], row["num_samples"], row["spread"]) == (1, 0, 40, None)
        assert row["nfe"] == result["reports"][name][0]["nfe"]
        assert row["parameters"] > 1000
        assert row["train_seconds"] >= 0.3
        assert (folder / f"{name}.png").exists()
    assert f"order:   {' > '.join(order(result['rows']))}" in out
    assert (folder / "compare.png").exists()
    table = (folder / "compare.md").read_text()
    assert "| method | sliced W_2 |" in table
    assert "| held-out data |" in table
    assert torch.get_num_threads() >= 1

    monkeypatch.setattr(run, "train", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(models, "evaluate", lambda *a, **k: pytest.fail("judged again"))
    again = go(folder)
    assert again["rows"] == result["rows"]


def test_a_seed_more_uses_what_there_is(tmp_path):
    one = go(tmp_path, methods=["flow-matching"])
    two = go(tmp_path, methods=["flow-matching"], seeds=2)
    assert two["reports"]["flow-matching"][0] == one["reports"]["flow-matching"][0]
    row = two["rows"]["flow-matching"]
    assert row["values"][0] == one["rows"]["flow-matching"]["mean"] != row["values"][1]
    assert row["spread"] == pytest.approx(abs(row["values"][0] - row["values"][1]) / 2**0.5)
    assert "2 seeds, mean ± standard deviation" in (tmp_path / "compare.md").read_text()


def test_a_method_is_judged_anew_when_its_sampler_has_changed(tmp_path, monkeypatch):
    before = go(tmp_path, methods=["flow-matching"])
    monkeypatch.setitem(METHODS, "flow-matching", Method("flow-matching", {"sampler": "euler", "num_levels": 3}))
    monkeypatch.setattr(run, "train", lambda *a, **k: None)  # the model is there
    after = go(tmp_path, methods=["flow-matching"])
    assert (before["rows"]["flow-matching"]["nfe"], after["rows"]["flow-matching"]["nfe"]) == (100, 3)


def test_a_method_that_diverges_is_a_row_and_not_the_end(tmp_path, monkeypatch):
    evaluate = models.evaluate

    def diverging(pipeline, **how):
        if pipeline.provenance["recipe"]["system"] == "ddpm":
            raise DivergedError("particles became non-finite at step 3")
        return evaluate(pipeline, **how)

    monkeypatch.setattr(models, "evaluate", diverging)
    result = go(tmp_path)
    assert result["rows"]["ddpm"] == {"seeds": 1, "diverged": 1}
    assert "step 3" in result["reports"]["ddpm"][0]["diverged"]
    assert order(result["rows"]) == ["flow-matching", "ddpm"]
    assert "| ddpm | diverged |" in page(result)


def test_distances_by_the_report_judges_stand_beside_the_one_that_ranks(tmp_path, monkeypatch):
    """With their spread over seeds; reports from before there were such judges are judged anew."""
    judged = []

    def evaluate(pipe, **how):
        judged.append(how)
        distances = {"report_distance": 5.0 + len(judged), "random_distance": 2.0, "random_distance_reference": 1.5}
        names = {"frechet_distance": "a classifier", "report_distance": "another", "random_distance": "a random one"}
        return REPORT | distances | {"judges": names}

    monkeypatch.setattr(module, "METHODS", {"a": Method("dmmd")})
    monkeypatch.setattr(module, "trained", lambda *a, **fields: Pipe())
    monkeypatch.setattr(module, "num_parameters", lambda pipe: 1)
    monkeypatch.setattr(models, "evaluate", lambda pipe, **how: dict(REPORT))
    compare(ComparisonSettings("digits", 7.0, seeds=2), tmp_path)
    monkeypatch.setattr(models, "evaluate", evaluate)
    for _ in range(2):
        result = compare(ComparisonSettings("digits", 7.0, seeds=2), tmp_path)
    assert len(judged) == 2
    row = result["rows"]["a"]
    assert row["report_distance"] == {"values": [6.0, 7.0], "mean": 6.5, "spread": pytest.approx(0.5**0.5)}
    text = (tmp_path / "compare.md").read_text()
    assert "| method | Frechet distance | report distance | random distance |" in text
    assert "| a | 3 ± 0 | 6.5 ± 0.71 | 2 ± 0 |" in text
    assert "| held-out data | - | - | 1.5 |" in text
    assert "report distance: another. Features of the random distance: a random one. No distance is an FID." in text


def test_equal_terms(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "METHODS", {"a": Method("dmmd"), "b": Method("dmmd", {"sampler": "approximate"})})
    monkeypatch.setattr(module, "trained", lambda name, *a, **fields: asked.append((name, fields)) or Pipe())
    monkeypatch.setattr(models, "evaluate", lambda pipe, **how: asked.append(how) or dict(REPORT))
    monkeypatch.setattr(module, "num_parameters", lambda pipe: 1)
    compare(ComparisonSettings("digits", 7.0, seeds=2), tmp_path)
    training = [fields for entry in asked if isinstance(entry, tuple) for fields in [entry[1]]]
    assert {fields["seconds"] for fields in training} == {7.0}
    assert [fields["seed"] for fields in training] == [0, 0, 1, 1]
    sampling = [entry for entry in asked if isinstance(entry, dict)]
    assert [how.get("sampler") for how in sampling] == [None, "approximate"] * 2
    assert [how["grid"] is None for how in sampling] == [False, False, True, True]


REPORT = {"frechet_distance": 3.0, "features": "a classifier", "nfe": 2, "num_samples": 4, "sample_seconds": 1.0}


@dataclasses.dataclass
class Pipe:
    provenance: dict = dataclasses.field(
        default_factory=lambda: {"steps": 1, "train_seconds": 7.0, "device": "cpu", "recipe": {}}
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("120", 120), ("120s", 120), ("1.5min", 90), ("2h", 7200), (" 3 s", 3), ("1e2s", 100)]
)
def test_budgets(text, seconds):
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-3s", "0", "inf", "nan", "2 days", "1m"])
def test_impossible_budgets(text):
    with pytest.raises(InputError, match="budget = .*: must be a time above 0"):
        budget_seconds(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget=soon"], "budget = 'soon': must be a time above 0"),
        (["--data=digit"], "data = 'digit': no method has a recipe for it; must be one of"),
        (
            ["--data=onestep-digits"],
            "must be one of celeba64, checkerboard, church64, cifar10, digits, fashion, images, mnist",
        ),
        (["--methods=[dmd]"], "methods = 'dmd': must be one of dmmd"),
        (["--methods=dmmd"], "methods = 'dmmd': must be a list, in brackets: [a,b]"),
        (["--seeds=0"], "seeds = 0"),
        (["-n=0"], "num_samples = 0"),
    ],
)
def test_bad_input(options, message, capsys, tmp_path, unchecked):
    assert main(["compare", *options, f"--output={tmp_path / 'c'}"]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert "\n" not in err
    assert not (tmp_path / "c").exists()
