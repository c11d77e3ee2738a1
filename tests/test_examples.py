"""The gallery runs at small size, and the code of the README and of docs/flows.md as it is written."""

import re
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[1]
SMALL = {
    "particle_flow": ["--num_steps=4", "--num_points=30", "--output=x.gif"],
    "noise_injection": ["--num_steps=4", "--num_points=30", "--output=x.png"],
    "dmmd_digits": ["--num_particles=5"],
    "sampling_variants": ["--num_particles=5", "--output=x.png"],
    "divergences": ["--num_steps=4", "--num_points=30", "--output=x.png"],
    "sliced_mmd": ["--num_steps=4", "--num_points=30", "--output=x.png"],
    "many_particles": ["--num_steps=2", "--num_points=2000", "--output=x.png"],
    "kale": ["--num_steps=2", "--num_points=40", "--output=x.png"],
    "drmmd": ["--num_steps=2", "--num_points=40", "--num_landmarks=10", "--output=x.png"],
    "f_divergence": ["--num_points=40", "--regularization=0.1", "--output=x.png"],
    "sobolev_descent": ["--num_steps=2", "--num_points=20", "--output=x.png"],
    "adaptive_mmd": ["--num_steps=2", "--num_points=30", "--output=x.png"],
    "weighted_particles": ["--num_steps=2", "--num_points=30", "--output=x.png"],
    "integrators": ["--nfe=4", "--num_points=30", "--output=x.png"],
    "constrained_flow": ["--num_steps=2", "--num_points=30", "--output=x.png"],
    "stop_by_test": ["--num_steps=4", "--num_points=30", "--output=x.png"],
}


def test_every_example_is_run():
    assert SMALL.keys() == {p.stem for p in (ROOT / "examples").glob("*.py")} - {"__main__"}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["examples", name, *SMALL[name]])
    runpy.run_path(str(ROOT / "examples"), run_name="__main__")
    assert capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == [a.split("=")[1] for a in SMALL[name] if a.startswith("--output")]


@pytest.mark.parametrize(
    ("page", "code"),
    [
        (page, code)
        for page in ("README.md", "docs/flows.md")
        for code in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    ],
)
def test_code_of_pages(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {})
