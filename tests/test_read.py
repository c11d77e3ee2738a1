"""The one reader of recipes and settings: what Python, YAML files and the command line may say, and what they are told."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest
import yaml

from mmdflow.cli.train import recipe_from
from mmdflow.errors import InputError
from mmdflow.methods import recipe_names, recipe_path
from mmdflow.recipe import FlowSpec
from mmdflow.recipe.read import Source, read_settings, read_text, read_value, read_yaml
from mmdflow.runs.read import read_recipe


@dataclass(frozen=True)
class Part:
    """A part."""

    count: int = 1
    mode: Literal["a", "b"] | None = None

    def __post_init__(self):
        if self.count < 1:
            raise InputError(f"count = {self.count}: must be >= 1")


@dataclass(frozen=True)
class Whole:
    """A whole."""

    RETIRED: ClassVar = {"weight": 0.0}
    name: str
    part: Part = field(default_factory=Part)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1e-3", float, 1e-3),
        (2, float, 2.0),
        (".5", float | None, 0.5),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ([1, 2], list[int] | None, [1, 2]),
        ([1, "2e0"], float | list[float], [1.0, 2.0]),
        (True, bool, True),
        (None, int | None, None),
        ("inf", float | Literal["inf"], "inf"),
    ],
)
def test_values_become_what_their_field_is(value, kind, expected):
    read = read_value("x", value, kind)
    assert read == expected
    assert type(read) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "allowed"),
    [
        ("many", int, "int"),
        (1.0, int, "int"),
        (True, int, "int"),
        (True, float, "float"),
        ("nan", float, "a finite number"),
        ("-inf", float | None, "a finite number"),
        (1, bool, "true or false"),
        (3, str, "str"),
        ("c", Literal["a", "b"], "one of 'a', 'b'"),
        ([1.0], tuple[float, float], "a list, in brackets: [a,b]"),
        (["a"], float | list[float] | None, "float or a list, in brackets: [a,b]"),
        (None, int, "int"),
        (3, Part, "fields, as `count: value`"),
    ],
)
def test_values_of_another_type_are_refused(value, kind, allowed):
    with pytest.raises(InputError) as error:
        read_value("part.x", value, kind)
    assert str(error.value) == f"part.x = {str(value)!r}: must be {allowed}"


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("7", int, 7),
        ("7", str, "7"),
        ("null", str | None, None),
        ("[1, 2]", int | list[int], [1, 2]),
        ("false", bool, False),
        (".inf", float, float("inf")),
        ("-1e-3", float, -1e-3),
        ("a: [", str, "a: ["),
    ],
)
def test_words_of_the_command_line(text, kind, expected):
    assert read_text("x", text, kind) == expected


def test_a_message_names_source_field_value_and_what_is_allowed():
    file = Source({"name": "n", "part": {"count": 0}}, "mine.yaml")
    with pytest.raises(InputError, match=r"^mine.yaml: part.count = 0: must be >= 1$"):
        read_settings(Whole, file)
    assert read_settings(Whole, file, Source({"part": {"count": 2}})).part == Part(2)
    with pytest.raises(InputError, match=r"^part.count = -1: must be >= 1$"):
        read_settings(Whole, file, Source({"part": {"count": -1}}))
    with pytest.raises(
        InputError, match=r"^mine.yaml: a field has the wrong name \(part.cuont\); did you mean 'part.count'"
    ):
        read_settings(Whole, Source({"part": {"cuont": 3}}, "mine.yaml"))
    with pytest.raises(InputError, match=r"^a field has the wrong name \(zzz\); there are name, part$"):
        read_settings(Whole, Source({"zzz": 3}))
    with pytest.raises(InputError, match="name is missing: must be str"):
        read_settings(Whole)


def test_a_retired_field_is_read_where_it_says_what_is_done_today():
    assert read_settings(Whole, Source({"name": "n", "weight": 0})).name == "n"
    with pytest.raises(InputError, match=r"weight = 1.0: is no field any more; must be left out or 0.0"):
        read_settings(Whole, Source({"name": "n", "weight": 1.0}))


@pytest.mark.parametrize("text", ["a: [", "- 1", "3", ""])
def test_a_file_that_holds_no_fields(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match="x.yaml: "):
        read_yaml(tmp_path / "x.yaml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="x.yaml: no such file$"):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"accelerator": "tpu"}}, "training.accelerator = 'tpu': must be one of 'auto', 'cpu', 'gpu'"),
        ({"loss": {"pairing": "nonsense"}}, "loss.pairing = 'nonsense': must be one of"),
        ({"training": {"max_steps": "10"}}, "training.max_steps = '10.0': must be int"),
        ({"training": 3}, "training = '3': must be fields"),
        ({"schedul": "vp"}, r"\(schedul\); did you mean 'schedule'"),
        ({"system": "dmd"}, "system = 'dmd': must be one of .*; did you mean 'dmmd'"),
    ],
)
def test_python_is_told_what_the_command_line_is_told(changes, message):
    with pytest.raises(InputError, match=message):
        read_recipe("dmmd-digits", changes)


def test_python_and_the_command_line_read_alike():
    for name in recipe_names():
        assert read_recipe(name) == recipe_from(name) == read_recipe(recipe_path(name))
    changes = {
        "training": {"step_size": 1e-3, "betas": [0.5, 0.9]},
        "base": {"name": "gaussian"},
        "loss": {"penalty_points": "segment"},
    }
    options = [
        "--training.step_size=1e-3",
        "--training.betas=[0.5,0.9]",
        "--base=gaussian",
        "--loss.penalty_points",
        "segment",
    ]
    assert read_recipe("dmmd-digits", changes) == recipe_from("dmmd-digits", options)


def test_options_go_over_files_and_later_files_over_earlier_ones(tmp_path):
    for name, fields in (("a", {"max_steps": 3, "log_every": 9}), ("b", {"max_steps": 4, "checkpoint_every": 9})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"training": fields}))
    configs = [f"--config={tmp_path / 'a.yaml'}", f"--config={tmp_path / 'b.yaml'}"]
    training = recipe_from("ddpm-digits", configs).training
    assert (training.max_steps, training.log_every, training.checkpoint_every) == (4, 9, 9)
    assert recipe_from("ddpm-digits", [*configs, "--training.max_steps=5"]).training.max_steps == 5


def test_flows_are_read_by_the_same_reader():
    with pytest.raises(InputError, match="divergence.kernel = 'gausian': must be one of"):
        read_settings(FlowSpec, Source({"divergence": {"kernel": "gausian"}}))
