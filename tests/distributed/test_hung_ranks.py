"""A rank that hangs: the others end in time with a clear line. One that takes long over a step does not."""

from __future__ import annotations

import math
import os
import re
import signal
import time

import lightning as L
import pytest
import torch

from mmdflow import MMD, flow
from mmdflow.distributed import connect, current
from mmdflow.distributed.ranks import check_others
from mmdflow.distributed.watch import Judge
from mmdflow.errors import InputError
from mmdflow.training.checkpoint import checkpoint_path, read_checkpoint
from tests.distributed.ranks import on_ranks
from tests.distributed.test_lost_ranks import _complaint, _training

SILENCE = 2.0
STUCK = r"no rank has done anything for \d+ s: one is stuck"


def _stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def _sleep():
    time.sleep(10**6)


def _compute():
    """A step that is longer than the silence."""
    end = time.process_time() + 1.6 * SILENCE
    while time.process_time() < end:
        torch.ones(1000).sum()


def _flow(on_one, num_steps=10**6):
    def callback(step, x):
        if step == 2 and current().rank == 1:
            on_one()

    points = torch.arange(12.0).reshape(6, 2)
    return flow(MMD(points), points + 1, num_steps=num_steps, callback=callback, sharded=True).particles


@pytest.mark.parametrize(
    ("hang", "why"), [(_stop, r"rank 1 has given no sign of life for \d+ s"), (_sleep, STUCK)], ids=["stopped", "stuck"]
)
def test_a_hung_flow(hang, why):
    ((message, seconds),) = on_ranks(2, lambda: _complaint(lambda: _flow(hang)), timeout=600, silence=SILENCE, hung=1)
    assert SILENCE < seconds < 30
    assert re.fullmatch(rf"another process of this run ended, or hangs \({why}\)", message)


def test_a_long_step_is_waited_for():
    parts = on_ranks(2, lambda: _flow(_compute, 5), timeout=600, silence=SILENCE)
    for part, plain in zip(parts, on_ranks(2, lambda: _flow(lambda: None, 5)), strict=True):
        assert torch.equal(part, plain)


class _Hang(L.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 6 and current().rank == 1:
            _sleep()


def test_a_hung_training(tmp_path):
    checkpoint_path(tmp_path).parent.mkdir()
    ((message, seconds),) = on_ranks(
        2, lambda: _complaint(lambda: _training(tmp_path, _Hang())), timeout=600, silence=SILENCE, hung=1
    )
    assert message.startswith("another process of this run ended, or hangs, at step 6 (no rank has done anything for ")
    assert f"the last checkpoint stays in {checkpoint_path(tmp_path)}" in message
    assert seconds < 60
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint["global_step"] == 4


def _wait_without_an_exchange():
    if current().rank == 1:
        _stop()
    while True:
        check_others()
        time.sleep(0.05)


def test_a_loop_that_waits_without_an_exchange_ends():
    ((message, _),) = on_ranks(2, lambda: _complaint(_wait_without_an_exchange), silence=SILENCE, hung=1)
    assert "rank 1 has given no sign of life" in message


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def judge(**settings):
    clock = Clock()
    return clock, Judge([0, 1, 2], 45.0, clock, **settings)


def test_who_waits_for_one_that_works_is_not_given_up():
    clock, judged = judge()
    for count in range(1, 200):
        clock.now += 5.0
        for rank in range(3):
            judged.hear(rank, f"{count} {5.0 * count if rank == 2 else 1.0}")
        assert judged.verdict() is None


def test_a_run_that_stands_still_is_given_up_though_all_give_signs():
    clock, judged = judge()
    for count in range(1, 9):
        clock.now += 5.0
        for rank in range(3):
            judged.hear(rank, f"{count} {1.0 + 0.001 * count}")  # less than a fiftieth
        assert judged.verdict() is None
    clock.now += 16.0
    for rank in range(3):
        judged.hear(rank, f"100 {1.1}")
    assert judged.verdict() == "no rank has done anything for 51 s: one is stuck"


def test_others_than_rank_0_know_of_no_standing_still():
    clock, judged = judge(all_ranks=False)
    for count in range(1, 30):
        clock.now += 5.0
        for rank in range(3):
            judged.hear(rank, f"{count} 1.0")
    assert judged.verdict() is None


def test_a_rank_that_has_ended_well_is_not_missed():
    clock, judged = judge()
    judged.hear(1, "end")
    for count in range(1, 30):
        clock.now += 5.0
        judged.hear(0, f"{count} {count}")
        judged.hear(2, f"{count} {count}")
    assert judged.verdict() is None
    clock.now += 46.0
    assert judged.verdict() == "rank 0 has given no sign of life for 46 s"


def test_a_sign_that_is_read_again_is_no_new_one():
    clock, judged = judge()
    for _ in range(10):
        clock.now += 5.0
        for rank in range(3):
            judged.hear(rank, "1 1.0")
    clock.now += 1.0
    assert judged.verdict() == "rank 0 has given no sign of life for 46 s"


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
@pytest.mark.parametrize("name", ["SILENCE", "TIMEOUT"])
def test_limits_are_checked(monkeypatch, name, text):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(f"MMDFLOW_RANK_{name}", text)
    with pytest.raises(InputError, match=f"MMDFLOW_RANK_{name} = '{text}': must be seconds > 0, or inf"):
        connect()
    with pytest.raises(InputError, match="silence = 0: must be seconds > 0, or inf"):
        connect(timeout=math.inf, silence=0)
