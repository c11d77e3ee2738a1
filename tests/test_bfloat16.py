"""Where bfloat16 is quick, where it is not, and what is done where AMX is announced and does not run."""

import os
import signal
import subprocess
import warnings
from dataclasses import replace

import pytest
import torch

from mmdflow import SlicedMMD, _bfloat16
from mmdflow.methods import recipe_path
from mmdflow.runs.read import read_recipe
from mmdflow.runs.train import open_run, train


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch):
    """Let the trial in another process end as asked; count the trials."""
    trials = []

    def ends(code: int, announced: bool = True) -> list:
        monkeypatch.setattr(_bfloat16, "announced", lambda: announced)
        monkeypatch.setattr(
            subprocess, "run", lambda *_, **__: trials.append(1) or subprocess.CompletedProcess([], code)
        )
        return trials

    # `setenv` first, so that what `spare_amx` sets is undone too
    monkeypatch.setenv(_bfloat16.LIMIT, "")
    monkeypatch.delenv(_bfloat16.LIMIT)
    _bfloat16._refused.cache_clear()
    yield ends
    _bfloat16._refused.cache_clear()


def test_a_killed_trial_limits_onednn_and_says_so(trial):
    trials = trial(-signal.SIGILL)
    with pytest.warns(UserWarning, match="ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16"):
        _bfloat16.spare_amx()
    assert os.environ[_bfloat16.LIMIT] == _bfloat16.BELOW_AMX
    _bfloat16.spare_amx()
    assert len(trials) == 1


@pytest.mark.parametrize("code", [0, 1])
def test_other_ends_change_nothing(trial, code):
    trial(code)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _bfloat16.spare_amx()
    assert _bfloat16.LIMIT not in os.environ


def test_no_trial_without_amx_or_with_a_limit_of_the_users(trial, monkeypatch):
    trials = trial(-signal.SIGILL, announced=False)
    _bfloat16.spare_amx()
    trial(-signal.SIGILL)
    monkeypatch.setenv(_bfloat16.LIMIT, "AVX2")
    _bfloat16.spare_amx()
    assert not trials
    assert os.environ[_bfloat16.LIMIT] == "AVX2"


def test_what_the_processor_announces(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    assert not _bfloat16.announced(cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu avx512_bf16 fsrm\n")
    assert not _bfloat16.announced(cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n")
    assert _bfloat16.announced(cpuinfo)


def test_bfloat16_survives_here():
    a = torch.ones(64, 64, dtype=torch.bfloat16)
    assert (a @ a).unique().tolist() == [64.0]


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("announced", "code", "limit", "quick"),
    [
        (True, 0, None, True),
        (True, 0, "avx512_core_amx", True),
        (True, 0, "AVX2", False),
        (True, -signal.SIGILL, None, False),
        (False, 0, None, False),
    ],
)
def test_a_processor_is_quick_where_its_amx_runs_and_may_be_used(trial, monkeypatch, announced, code, limit, quick):
    trial(code, announced=announced)
    if limit is not None:
        monkeypatch.setenv(_bfloat16.LIMIT, limit)
    assert _bfloat16.is_quick(CPU) == quick
    assert _bfloat16.resolve("auto", CPU) == ("bfloat16" if quick else "float32")
    for precision in ("float32", "bfloat16"):
        assert _bfloat16.resolve(precision, CPU) == precision


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_quick_from_ampere_on(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert _bfloat16.is_quick(torch.device("cuda")) == native


def test_what_is_slow_is_said_where_it_is_asked_for(trial):
    trial(0, announced=False)
    with pytest.warns(UserWarning, match="precision = 'bfloat16': this processor multiplies bfloat16 more slowly"):
        SlicedMMD(torch.randn(8, 3), 4, precision="bfloat16")
    trial(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SlicedMMD(torch.randn(8, 3), 4, precision="bfloat16")


@pytest.mark.parametrize("quick", [True, False])
def test_a_run_says_what_auto_came_to(monkeypatch, tmp_path, quick):
    monkeypatch.setattr(_bfloat16, "is_quick", lambda device: quick)
    recipe = read_recipe(recipe_path("drifting-checkerboard"))
    recipe = replace(recipe, training=replace(recipe.training, precision="auto", max_steps=2, batch_size=8))
    open_run(recipe, tmp_path / "run")
    made = train(recipe, tmp_path / "run", progress=False).provenance
    assert made["precision"] == ("bfloat16" if quick else "float32")
    assert made["recipe"]["training"]["precision"] == "auto"
