"""Fit a loss module to data in a folder, from the start or from its last checkpoint."""

from __future__ import annotations

import csv
import errno
import itertools
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Int
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader

from mmdflow import _run_folder
from mmdflow._lock import check_held
from mmdflow.distributed import Ranks, current
from mmdflow.distributed.ranks import is_loss, loss_reason
from mmdflow.errors import DivergedError, InputError, RankLostError, Terminated, reason
from mmdflow.training.batches import ImageEvents, StepBatches
from mmdflow.training.callbacks import Checkpoints, Logs, StepProgress
from mmdflow.training.checkpoint import CheckpointFile, checkpoint_path, read_checkpoint
from mmdflow.training.module import LossModule

#: Errors of a disk that is full, or may not be written.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def read_log(folder: Path) -> dict[str, dict[int, float]]:
    """Return what a run logged, over all its resumes: value by step, by name."""
    log: dict[str, dict[int, float]] = {}
    for file in sorted((folder / _run_folder.LOGS).glob("*/metrics.csv")):
        with file.open(newline="") as opened:
            for row in csv.DictReader(opened):
                if None in row.values() or not row.get("step"):  # a line that a kill cut short
                    continue
                step = int(row.pop("step"))
                row.pop("epoch", None)
                for name, value in row.items():
                    if value:
                        log.setdefault(name, {})[step] = float(value)
    return {name: dict(sorted(values.items())) for name, values in log.items()}


def fit(
    module: LossModule,
    data: Tensor | ImageEvents,
    folder: Path,
    *,
    batch_size: int,
    labels: Int[Tensor, " n"] | None = None,
    same_class: int = 1,
    label_dropout: float = 0.0,
    callbacks: Sequence[L.Callback] = (),
    progress: bool = True,
) -> LossModule:
    """Train in `folder`, from its last checkpoint when there is one; the result does not depend on interruptions.

    On several ranks (`mmdflow.distributed`) all call it alike. Each has the whole batch of a step; the networks that share rows
    evaluate their part. The number of ranks changes the result by rounding alone, also where a resume has another.

    Args:
        module: the loss, with the settings of the loop.
        data: [n, *event], in memory, or images that are decoded by the batch.
        folder: of the run: its checkpoints and logs.
        batch_size: events a step.
        labels: classes of the events, [n], for a loss that is told them.
        same_class: with labels, events in a row of a batch that are of one class, see `StepBatches`.
        label_dropout: share of these rows that are of all classes.
        callbacks: called beside those that keep checkpoints and show progress.
        progress: show a bar.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written; `Terminated`, which is one, after SIGTERM.
        DivergedError: when the loss or the weights become non-finite; the last good checkpoint stays.
        InputError: when the checkpoint is damaged or does not fit the model, or there are seconds to stop by on several ranks.
        RankLostError: when another rank ends; the last checkpoint stays.
    """
    ranks, loop, checkpoint = current(), module.loop, read_checkpoint(folder)
    if ranks.size > 1 and loop.max_seconds is not None:
        raise InputError(f"training.max_seconds = {loop.max_seconds:g} on {ranks.size} processes: must be left out")
    start = 0
    if checkpoint is not None:
        start = int(checkpoint["global_step"])
        _load(module, checkpoint, folder)
        out_of_time = loop.max_seconds is not None and float(checkpoint["mmdflow_seconds"]) >= loop.max_seconds
        if start >= loop.max_steps or out_of_time:
            module.on_load_checkpoint(checkpoint)
            return module
    batches = StepBatches(
        data, batch_size, loop.seed, start, labels=labels, same_class=same_class, label_dropout=label_dropout
    )
    _quiet()
    checkpoints = Checkpoints(checkpoint_path(folder), loop.checkpoint_every)
    trainer = L.Trainer(
        accelerator=loop.accelerator,
        **_devices(ranks),
        max_steps=loop.max_steps,
        max_epochs=-1,
        gradient_clip_val=loop.gradient_clip,
        callbacks=[
            Logs(folder),
            checkpoints,
            *([StepProgress(loop.max_steps, loop.max_seconds)] if progress and ranks.first else []),
            *callbacks,
        ],
        logger=_loggers(folder, start, ranks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        inference_mode=False,
        plugins=[CheckpointFile(checkpoint)],
        default_root_dir=folder,
    )
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)
    torch.set_flush_denormal(True)  # denormals slow CPU training tenfold
    try:
        with (
            _explained(trainer, checkpoints, folder),
            warnings.catch_warnings(),
            module.threads.training(),
            _said_once(),
        ):
            warnings.filterwarnings("ignore", module="lightning.*")
            trainer.fit(module, loader, ckpt_path=None if checkpoint is None else str(checkpoint_path(folder)))
    finally:
        torch.set_flush_denormal(False)  # it is of the whole process; PyTorch's default again
        checkpoints.restore()
    return module


@contextmanager
def _explained(trainer: L.Trainer, checkpoints: Checkpoints, folder: Path) -> Iterator[None]:
    """Answer what ends a training early with what `fit` raises, which names the step and the checkpoint that stays."""
    try:
        yield
    except SIGTERMException:  # a SystemExit, too
        raise Terminated from None
    except SystemExit:  # Lightning answers Ctrl-C with exit(1), after it has called the callbacks
        if trainer.interrupted:
            raise checkpoints.interruption() from None
        raise
    except DivergedError as error:
        raise DivergedError(
            f"step {trainer.global_step}: {error}; lower training.step_size. "
            f"The last good checkpoint stays in {checkpoint_path(folder)}"
        ) from error
    except OSError as error:  # of the logs, or of the data
        check_held(folder)
        if error.errno not in _UNWRITABLE:
            raise
        raise InputError(
            f"{folder}: cannot be written at step {trainer.global_step} ({error.strerror or error}); the last checkpoint stays "
            f"in {checkpoint_path(folder)}"
        ) from error
    except RuntimeError as error:
        if not is_loss(error):
            raise
        raise RankLostError(
            f"another process of this run ended, or hangs, at step {trainer.global_step} ({loss_reason(error)}); "
            f"the last checkpoint stays in {checkpoint_path(folder)}"
        ) from error


@contextmanager
def _said_once() -> Iterator[None]:
    """Keep the thread of a log's writer from printing the error of a full disk, which it gives to this thread as well."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _devices(ranks: Ranks) -> dict[str, Any]:
    """Return the trainer's arguments for this process alone, or for one of several that are connected already."""
    if ranks.size == 1:
        return {"devices": 1}
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))
    strategy = DDPStrategy(
        cluster_environment=Connected(ranks),
        find_unused_parameters=True,  # a loss may take turns
        broadcast_buffers=False,  # every rank computes the same
    )
    return {"devices": here, "num_nodes": ranks.size // here, "strategy": strategy}


class Connected(ClusterEnvironment):
    """Processes that are connected already, whoever started them.

    Args:
        ranks: the ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        """They are there."""
        return True

    @property
    def main_address(self) -> str:
        """Not needed any more."""
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """Not needed any more."""
        return int(os.environ.get("MASTER_PORT", "0"))

    @staticmethod
    def detect() -> bool:
        """Never by itself."""
        return False

    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.ranks.size

    def set_world_size(self, size: int) -> None:
        """It is as it is."""

    def global_rank(self) -> int:
        """Return the rank."""
        return self.ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """It is as it is."""

    def local_rank(self) -> int:
        """Return the rank on this machine."""
        return int(os.environ.get("LOCAL_RANK", self.ranks.rank))

    def node_rank(self) -> int:
        """Return the number of this machine."""
        return int(os.environ.get("GROUP_RANK", "0"))


def _load(module: LossModule, checkpoint: dict[str, Any], folder: Path) -> None:
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        why = reason(error, 160)
        raise InputError(f"{checkpoint_path(folder)}: does not fit this recipe's network ({why})") from error


def _loggers(folder: Path, start: int, ranks: Ranks) -> list[Logger]:
    """CSV always, TensorBoard when installed; each resume writes its own, so no log is lost."""

    def name(number: int) -> str:
        return f"from-step-{start}" + (f"-{number}" if number else "")

    number = next(i for i in itertools.count() if not (folder / _run_folder.LOGS / name(i)).exists())
    version = name(int(ranks.from_first(torch.tensor(number))))
    loggers: list[Logger] = [CSVLogger(folder, name=_run_folder.LOGS, version=version)]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name=_run_folder.TENSORBOARD, version=version))
    return loggers


def _quiet() -> None:
    """Keep Lightning's greetings off the terminal; warnings of its own stay."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING if sys.stderr.isatty() else logging.ERROR)
