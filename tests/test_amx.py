"""What is done where AMX is announced and does not run."""

import os
import signal
import subprocess
import warnings

import pytest

from mmdflow import _amx


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch):
    """Let the trial in another process end as asked; count the trials."""
    trials = []

    def ends(code: int, announced: bool = True) -> list:
        monkeypatch.setattr(_amx, "announced", lambda: announced)
        monkeypatch.setattr(
            subprocess, "run", lambda *_, **__: trials.append(1) or subprocess.CompletedProcess([], code)
        )
        return trials

    # `setenv` first, so that what `spare_amx` sets is undone too
    monkeypatch.setenv(_amx.LIMIT, "")
    monkeypatch.delenv(_amx.LIMIT)
    _amx.spare_amx.cache_clear()
    yield ends
    _amx.spare_amx.cache_clear()


def test_a_killed_trial_limits_onednn_and_says_so(trial):
    trials = trial(-signal.SIGILL)
    with pytest.warns(UserWarning, match="ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16"):
        _amx.spare_amx()
    assert os.environ[_amx.LIMIT] == _amx.BELOW_AMX
    _amx.spare_amx()
    assert len(trials) == 1


@pytest.mark.parametrize("code", [0, 1])
def test_other_ends_change_nothing(trial, code):
    trial(code)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _amx.spare_amx()
    assert _amx.LIMIT not in os.environ


def test_no_trial_without_amx_or_with_a_limit_of_the_users(trial, monkeypatch):
    trials = trial(-signal.SIGILL, announced=False)
    _amx.spare_amx()
    _amx.spare_amx.cache_clear()
    trial(-signal.SIGILL)
    monkeypatch.setenv(_amx.LIMIT, "AVX2")
    _amx.spare_amx()
    assert not trials
    assert os.environ[_amx.LIMIT] == "AVX2"


def test_what_the_processor_announces(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    assert not _amx.announced(cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu avx512_bf16 fsrm\n")
    assert not _amx.announced(cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n")
    assert _amx.announced(cpuinfo)


def test_bfloat16_survives_here():
    import torch

    a = torch.ones(64, 64, dtype=torch.bfloat16)
    assert (a @ a).unique().tolist() == [64.0]
