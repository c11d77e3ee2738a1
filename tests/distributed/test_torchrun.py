"""The commands as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmdflow.cli import main

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmdflow"]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, *arguments], capture_output=True, text=True, timeout=600, env=environment)


def test_flow(tmp_path, capsys):
    options = ["--target=rings", "--num_steps=4", "--num_particles=51", "--num_targets=70", "--noise_injection=0.1"]
    made = torchrun("flow", *options, f"--save={tmp_path / 'two.npy'}")
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("written: ") == 1
    assert main(["flow", *options, f"--save={tmp_path / 'one.npy'}"]) == 0
    one, two = (np.load(tmp_path / name) for name in ("one.npy", "two.npy"))
    np.testing.assert_allclose(two, one, atol=1e-6)
    assert capsys.readouterr().out.splitlines()[-2] == made.stdout.splitlines()[-2]  # the verdict of the test


def test_train_and_sample(tmp_path):
    options = ["--training.max_steps=3", "--training.events_per_level=8", "--sampling.mean_events=100"]
    made = torchrun("train", "dmmd-checkerboard", f"--output={tmp_path / 'run'}", *options)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("trained: ") == 1
    made = torchrun("sample", str(tmp_path / "run"), "-n", "30", "--particles_per_run=7", f"--shards={tmp_path / 's'}")
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("30 samples in 1 file") == 1


def test_what_is_not_for_several_processes(tmp_path):
    made = torchrun("evaluate", "digits")
    assert made.returncode != 0
    assert "mmdflow: error: rank 1: evaluate on 2 processes: must be one of flow, sample, train" in made.stderr
