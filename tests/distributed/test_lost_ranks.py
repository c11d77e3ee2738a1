"""A rank that is killed: the others end at once with a clear line, and what was written stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from mmdflow import MMD, flow
from mmdflow.cli.train import recipe_from
from mmdflow.distributed import current
from mmdflow.errors import RankLostError
from mmdflow.methods import get_method
from mmdflow.recipe.data import load_data
from mmdflow.training import LossModule, fit
from mmdflow.training.checkpoint import checkpoint_path, read_checkpoint
from tests.distributed.ranks import on_ranks


def _die() -> None:
    if current().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def _complaint(work: Callable[[], Any]) -> tuple[str, float]:
    """What the work says when it is left by another rank, and after how many seconds of waiting."""
    start = time.monotonic()
    with pytest.raises(RankLostError) as error:
        work()
    return str(error.value), time.monotonic() - start


def _flow() -> tuple[str, float]:
    def callback(step: int, x: torch.Tensor) -> None:
        if step == 2:
            _die()

    points = torch.arange(12.0).reshape(6, 2)
    return _complaint(lambda: flow(MMD(points), points + 1, num_steps=10**6, callback=callback, sharded=True))


class _Deadly(L.Callback):
    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == 6:
            _die()


def _training(folder: Path, *callbacks: L.Callback) -> None:
    options = ["--training.max_steps=8", "--training.checkpoint_every=4", "--features.width=8", "--features.depth=1"]
    recipe = recipe_from("dmmd-checkerboard", [*options, "--training.events_per_level=8"])
    dataset, system = load_data(recipe.data), get_method(recipe.system).make_system()
    loss = system.loss(recipe, dataset)
    module = LossModule(loss, system.learned(loss), recipe.training)
    fit(module, dataset.train, folder, batch_size=recipe.batch_size, callbacks=callbacks, progress=False)


def test_a_killed_flow():
    ((message, seconds),) = on_ranks(2, _flow, killed=1)
    assert message.startswith("another process of this run ended, or hangs (")
    assert seconds < 60


def test_a_killed_training(tmp_path):
    checkpoint_path(tmp_path).parent.mkdir()
    ((message, seconds),) = on_ranks(2, lambda: _complaint(lambda: _training(tmp_path, _Deadly())), killed=1)
    assert message.startswith("another process of this run ended, or hangs, at step ")
    assert f"the last checkpoint stays in {checkpoint_path(tmp_path)}" in message
    assert seconds < 60
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint["global_step"] == 4
    _training(tmp_path)  # one process goes on
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint["global_step"] == 8
