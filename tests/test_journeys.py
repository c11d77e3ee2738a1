"""The journeys of three new users run as they would type them, at small size, in at most six commands."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[1]
JOURNEYS = {path.stem: path for path in (ROOT / "examples" / "journeys").glob("*.sh")}
#: What makes a journey short: patterns and what takes their place.
SHORT = (
    (r"(num_steps|max_steps)=\d+", r"\1=3"),
    (r"training\.max_seconds=\d+", "training.max_steps=2"),
    (r'"(batch|reference)", 5000', r'"\1", 120'),
    (r"num_targets=\d+", "num_targets=80"),
    (r"digits\.(train|test)\b,", r"digits.\1[:40],"),
    (r"-n 64", "-n 4"),
)


def run(name, folder):
    """Run a journey in a folder, made short, and return what it prints."""
    text = JOURNEYS[name].read_text()
    for pattern, short in SHORT:
        text = re.sub(pattern, short, text)
    script = folder / "journey.sh"
    script.write_text(text)
    where = str(Path(sys.executable).parent)
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    settings = os.environ | {"PATH": where + os.pathsep + os.environ["PATH"], "PYTHONPATH": source}
    done = subprocess.run(["bash", str(script)], cwd=folder, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("name", sorted(JOURNEYS))
def test_at_most_six_commands(name):
    text = re.sub(r"<<'END'.*?^END$", "", JOURNEYS[name].read_text(), flags=re.S | re.M).replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line and not line.startswith(("#", "set "))]
    assert 2 <= len(commands) <= 6, commands
    assert f"bash examples/journeys/{name}.sh" in text


def test_own_flow(tmp_path):
    out = run("own_flow", tmp_path)
    assert "own kernel FlowResult([300, 2] particles, 3 steps" in out
    assert {"own_kernel.png", "energy_distance.png"} <= {file.name for file in tmp_path.iterdir()}


def test_own_table(tmp_path):
    out = run("own_table", tmp_path)
    assert "MMD test p = " in out
    assert "ids and notes as they were" in out
    for name, moved in (("batch", "moved"), ("later", "moved-later")):
        before, after = rows(tmp_path / f"{name}.csv"), rows(tmp_path / f"{moved}.csv")
        assert len(after) == len(before) >= 121
        assert after[0] == before[0]
        assert [row[0] for row in after] == [row[0] for row in before]  # the ids, row for row
        assert [row[-1] for row in after] == [row[-1] for row in before]
        assert all(a[1:-1] != b[1:-1] for a, b in zip(after[1:], before[1:], strict=True))


@pytest.mark.slow
def test_own_pictures(tmp_path):
    run("own_pictures", tmp_path)
    assert (tmp_path / "grid.png").is_file()
    assert (tmp_path / "runs" / "mine" / "report.png").is_file()
