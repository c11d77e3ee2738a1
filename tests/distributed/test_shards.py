"""Samples in bulk are the same on any number of ranks and after any interruption."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmdflow import InputError
from mmdflow.cli import main
from mmdflow.distributed import Ranks
from mmdflow.methods import load_pipeline
from mmdflow.runs.shards import Plan, read_shards, sample_shards

PLAN = Plan(num_samples=17, particles_per_run=3, seed=5)
QUICK = {"sampler": "approximate", "num_levels": 2, "steps_per_level": 1}


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr("mmdflow.runs.shards.PER_FILE", 6)


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("digits")


def test_same_samples_on_any_number_of_ranks(pipeline, tmp_path):
    sample_shards(pipeline, PLAN, tmp_path / "one", Ranks(), **QUICK)
    for rank in (2, 1, 0):  # in any order; rank 0 waits for all
        sample_shards(pipeline, PLAN, tmp_path / "three", Ranks(rank, 3), **QUICK)
    one, three = (read_shards(tmp_path / name) for name in ("one", "three"))
    assert torch.equal(one, three)
    assert len(one) == 17
    assert len(one.flatten(1).unique(dim=0)) == 17  # every run has noise of its own


def test_goes_on_with_what_is_missing(pipeline, tmp_path):
    sample_shards(pipeline, PLAN, tmp_path, Ranks(), **QUICK)
    before = read_shards(tmp_path)
    names = PLAN.files
    (tmp_path / names[1]).unlink()
    kept = (tmp_path / names[0]).stat().st_mtime_ns
    with pytest.raises(InputError, match=f"{names[1]}: missing; the same command goes on"):
        read_shards(tmp_path)
    sample_shards(pipeline, PLAN, tmp_path, Ranks(), **QUICK)
    assert torch.equal(read_shards(tmp_path), before)
    assert (tmp_path / names[0]).stat().st_mtime_ns == kept


def test_samples_without_an_index_are_refused(pipeline, tmp_path):
    (tmp_path / PLAN.files[0]).touch()
    with pytest.raises(InputError, match=r"holds samples without index\.json"):
        sample_shards(pipeline, PLAN, tmp_path, Ranks(), **QUICK)


@pytest.mark.parametrize(
    ("plan", "settings", "message"),
    [
        (Plan(17, 3, 6), QUICK, "another seed = 6, 5 there"),
        (Plan(18, 3, 5), QUICK, "another num_samples = 18, 17 there"),
        (PLAN, {**QUICK, "num_levels": 3}, "another settings"),
    ],
)
def test_another_plan_is_refused(pipeline, tmp_path, plan, settings, message):
    sample_shards(pipeline, PLAN, tmp_path, Ranks(), **QUICK)
    with pytest.raises(InputError, match=message):
        sample_shards(pipeline, plan, tmp_path, Ranks(), **settings)


def test_damaged_files_are_said(pipeline, tmp_path):
    sample_shards(pipeline, PLAN, tmp_path, Ranks(), **QUICK)
    np.save(tmp_path / PLAN.files[0], np.zeros((2, 1, 8, 8), np.float32))
    with pytest.raises(InputError, match="holds 2 samples: must be 6"):
        read_shards(tmp_path)
    (tmp_path / PLAN.files[0]).write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="not readable samples"):
        read_shards(tmp_path)


def test_from_the_command_line(tmp_path, capsys):
    folder = tmp_path / "samples"
    options = [f"--{name}={value}" for name, value in QUICK.items()]
    command = ["sample", "digits", "-n", "9", "--particles_per_run=4", f"--shards={folder}", *options]
    assert main(command) == 0
    assert f"{folder}: 9 samples in 2 files" in capsys.readouterr().out
    assert json.loads((folder / "index.json").read_text())["settings"] == QUICK
    assert torch.equal(read_shards(folder), read_shards(folder).clamp(-1, 1))
    judged = ["evaluate", str(folder), "--reference=digits", "--split=test", "--features=random"]
    assert main(judged) == 0
    assert "; 9 samples against" in capsys.readouterr().out
    assert main([*judged, "--num_samples=10"]) == 2
    assert f"num_samples = 10: {folder} holds 9" in capsys.readouterr().err
    assert main([*command, "--seed=1"]) == 2
    assert "holds samples of another seed" in capsys.readouterr().err
    for more in (["-o", "grid.png"], ["--labels=3"], ["--overwrite"]):
        assert main([*command, *more]) == 2
        assert "with --shards: must be left out" in capsys.readouterr().err
    assert main(["sample", "digits", "-o", "grid.png", "--particles_per_run=4"]) == 2
    assert "particles_per_run = 4 without --shards" in capsys.readouterr().err
