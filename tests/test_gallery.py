"""The gallery runs at small size, and the notebooks as they are; the pictures of the gallery are there, and small."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples" / "gallery").glob("*.py"))
PICTURES = ROOT / "docs" / "assets" / "gallery"
#: Sizes that show that a script works; the others take their defaults.
SMALL = {
    "batch_alignment": {"num_steps": 5},
    "colour_transfer": {"num_colours": 50, "num_steps": 3, "every": 16},
    "domain_adaptation": {"num_steps": 5},
    "drift_against_mmd": {"num_points": 40, "num_steps": 3},
    "fifty_points": {"num_points": 200, "few": 5},
    "image_to_image": {"copies": 2},
    "inpainting": {"num_digits": 2, "num_ways": 2},
    "judging_samples": {"num_samples": 50},
    "kale_on_mixtures": {"num_points": 40, "num_centres": 5},
    "one_step_digits": {"num_steps": 3, "batch_size": 20},
    "photograph_density": {"num_points": 100, "num_steps": 2, "every": 16},
    "shape_morphing": {"num_points": 60, "num_steps": 16},
    "simulation_to_data": {"num_events": 60, "num_steps": 5},
    "sliced_high_dimensions": {"num_points": 50, "dim": 20, "num_steps": 6},
    "student_teacher": {"num_students": 10, "num_steps": 20},
    "witness_map": {"num_points": 60},
}


def output(script):
    """Return the name of the picture that a script writes."""
    return re.search(r'output: str = "([^"]+)"', script.read_text())[1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_writes_its_picture(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))["main"](**SMALL[script.stem])
    assert capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == [output(script)]
    with Image.open(output(script)) as picture:
        assert min(picture.size) > 100


def test_every_script_is_on_the_page_with_its_picture():
    assert len(SCRIPTS) == 16
    assert SMALL.keys() == {script.stem for script in SCRIPTS}
    page = (ROOT / "docs" / "gallery.md").read_text()
    assert {output(script) for script in SCRIPTS} == {file.name for file in PICTURES.iterdir()}
    for script in SCRIPTS:
        assert f"`python examples/gallery/{script.name}`" in page
        assert f"(assets/gallery/{output(script)})" in page
        assert (PICTURES / output(script)).stat().st_size <= 60_000


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_are_short(script):
    body = re.sub(r'^""".*?"""\n', "", script.read_text(), flags=re.S)
    lines = [line for line in body.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
    assert 10 <= len(lines) <= 45
    assert f"python examples/gallery/{script.name}" in script.read_text()


NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    names = {"__name__": "notebook"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "clear the outputs before a commit"
            code = ast.parse("".join(cell["source"]))
            last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
            exec(compile(code, f"{path.name}, {cell['id']}", "exec"), names)
            if last is not None:  # what the notebook would show
                value = eval(compile(ast.Expression(last.value), f"{path.name}, {cell['id']}", "eval"), names)
                assert value is None or repr(value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_links_lead_somewhere(path):
    for cell in json.loads(path.read_text())["cells"]:
        for link in re.findall(r"\]\(([^)]+)\)", "".join(cell["source"])) if cell["cell_type"] == "markdown" else ():
            assert (path.parent / link).is_file(), link
