"""A method from outside the package: the one that the docs write out, run as they say."""

import re
import sys
from pathlib import Path

import pytest
import torch

from mmdflow import InputError
from mmdflow.data import toy
from mmdflow.functional import mmd2
from mmdflow.kernels import Gaussian
from mmdflow.methods import Method, all_methods, get_method, load_pipeline, register, registry

pytest.importorskip("lightning")
DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|yaml|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^`(mmd_generator/\S+)`", re.MULTILINE)


def page():
    """The section "A method" of the page that has it."""
    texts = (file.read_text() for file in sorted(DOCS.glob("extend*.md")))
    return next(text for text in texts if "## A method\n" in text).split("## A method\n")[1].split("\n## ")[0]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package of the page, importable; returns the block that registers and uses it."""
    use = ""
    for before, kind, code in zip(*[iter(re.split(BLOCK, page())[:-1])] * 3, strict=True):
        names = FILE.findall(before)
        if names:
            file = tmp_path / names[-1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code)
        elif kind == "python":
            use = code
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield use
    registry._registered.pop("mmd-generator", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "mmd_generator"]:
        del sys.modules[name]


def test_the_method_of_the_page_trains_samples_and_is_saved(package, capsys):
    before = sorted(all_methods())
    exec(package, {})
    printed = capsys.readouterr().out
    assert "torch.Size([5, 2])" in printed
    assert "samples.npz: [100, 2], NFE 1" in printed
    assert sorted(all_methods()) == sorted([*before, "mmd-generator"])
    pipeline = load_pipeline("run")
    assert pipeline.provenance["recipe"]["system"] == "mmd-generator"
    x = pipeline(500, generator=torch.Generator().manual_seed(0)).particles
    target, kernel = toy("moons", 500, generator=torch.Generator().manual_seed(1)), Gaussian(0.5)
    start = torch.randn(500, 2, generator=torch.Generator().manual_seed(2))
    assert mmd2(x, target, kernel) < 0.5 * mmd2(start, target, kernel)


def test_bad_settings_of_such_a_method_are_one_line(package, capsys, unchecked):
    from mmdflow.cli import main

    exec(package.split("assert")[0], {})
    for arguments, message in (
        (["--loss.bandwidth=0"], "loss.bandwidth = 0.0: must be a finite number > 0"),
        (["--loss.bandwith=1"], "--loss.bandwith: no such field; did you mean 'loss.bandwidth'?"),
    ):
        assert main(["train", "mmd-generator-moons", "--output=run", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert "\n" not in error


def test_names_are_taken_once():
    register(get_method("ddpm"))  # again, which changes nothing
    with pytest.raises(InputError, match=r"method = 'ddpm': the name is taken by mmdflow\.methods\.denoising"):
        register(Method("ddpm", "Recipe", "System", "elsewhere"))
    broken = Method("broken", "NoRecipe", "System", "mmdflow.methods.denoising")
    with pytest.raises(InputError, match=r"method = 'broken': mmdflow\.methods\.denoising\.recipe holds no NoRecipe"):
        broken.recipe_class()
