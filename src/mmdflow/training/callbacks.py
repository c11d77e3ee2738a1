"""Callbacks: atomic checkpoints, a bar over steps, grids of samples as training goes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from tqdm.auto import tqdm

from mmdflow._checks import all_finite
from mmdflow._files import new_file
from mmdflow._lock import check_held
from mmdflow.distributed import current
from mmdflow.errors import DivergedError, InputError, Terminated
from mmdflow.training.checkpoint import previous_path
from mmdflow.training.module import LossModule


class Checkpoints(L.Callback):
    """Keep the last checkpoint: written aside and renamed, at the start, every so many steps, at the end, on Ctrl-C and SIGTERM.

    The one before it stays beside it, for the case that the last one is damaged. Weights that are not finite are never written,
    so the last good checkpoint stays. A kill at any moment leaves a whole file. Ctrl-C and SIGTERM are taken between steps, where
    weights, optimiser, average and step count belong together.

    Args:
        path: of the checkpoint.
        every: steps between checkpoints.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.stop = False
        self._saved_at = 0
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._taken = self._terminated = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save before the first step, and take over Ctrl-C and SIGTERM."""
        if trainer.is_global_zero:
            for litter in self.path.parent.glob(
                f".{self.path.stem}.*.tmp*"
            ):  # of a process that was killed while writing
                litter.unlink()
        self._save(
            trainer, pl_module, keep=False
        )  # of the step that it was read at, if from a damaged one's predecessor
        if threading.current_thread() is threading.main_thread():
            self._taken = True
            for number in self._before:
                signal.signal(number, self._ask_to_stop)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Save every so many steps, and stop after a signal: on all ranks after the same step."""
        self.stop = current().any(self.stop)
        if self.stop or trainer.global_step % self.every == 0:
            self._save(trainer, pl_module)
        if self.stop:
            raise self.interruption()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end."""
        self._save(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the logs as they are where the folder is gone: what they still hold would make a new one."""
        try:
            check_held(self.path.parent.parent)
        except InputError:
            trainer.loggers = []

    def restore(self) -> None:
        """Give the signals back to whom they belonged before the training."""
        for number, handler in self._before.items() if self._taken else ():
            if handler is not None:  # not of Python's
                signal.signal(number, handler)
        self._taken = False

    def interruption(self) -> KeyboardInterrupt:
        """Return what the signal is answered with."""
        return Terminated() if self._terminated else KeyboardInterrupt()

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        self._terminated = number == signal.SIGTERM
        if self.stop:  # a second signal does not wait for the step
            raise self.interruption()
        self.stop = True

    def _save(self, trainer: L.Trainer, module: L.LightningModule, *, keep: bool = True) -> None:
        if not all(map(all_finite, module.parameters())):
            raise DivergedError(f"parameters became non-finite before step {trainer.global_step}")
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.path)  # rank 0 alone writes, and waits for the others
            return
        check_held(self.path.parent.parent)
        for logger in trainer.loggers:
            logger.save()
        with new_file(self.path) as aside:
            trainer.save_checkpoint(aside)
            if keep and trainer.global_step > self._saved_at and self.path.exists():
                os.replace(self.path, previous_path(self.path))  # a kill here leaves this one, which is read then
        self._saved_at = trainer.global_step


class Logs(L.Callback):
    """Write what a step logged before its checkpoint is written, so that no kill leaves a gap.

    Args:
        folder: of the run; where it is gone, nothing is written that would make a new one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Write a row where one is due."""
        if isinstance(pl_module, LossModule) and trainer.global_step % pl_module.log_every == 0:
            check_held(self.folder)
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
            for logger in trainer.loggers:
                try:
                    logger.log_metrics(logged, step=trainer.global_step - 1)
                except ValueError as error:  # TensorBoard's for whatever its writer raises
                    if isinstance(error.__cause__, OSError):
                        raise error.__cause__ from None
                    raise


class StepProgress(L.Callback):
    """One bar over all steps, or over the seconds of a training that is bounded by them, with ETA and what was logged last.

    That is the loss and the first few of its parts, `_SHOWN` in front.
    """

    #: What comes first on the bar, and how many numbers fit.
    _SHOWN, _MOST = ("loss", "mmd2", "slope"), 3

    def __init__(self, max_steps: int, max_seconds: float | None = None) -> None:
        self.max_steps, self.max_seconds = max_steps, max_seconds
        self.bar: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step where training stands."""
        self.bar = tqdm(
            total=self.max_steps if self.max_seconds is None else round(self.max_seconds),
            initial=self._done(trainer, pl_module),
            desc="train",
            unit="step" if self.max_seconds is None else "s",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Move on."""
        self.bar.update(max(0, self._done(trainer, pl_module) - self.bar.n))
        if isinstance(pl_module, LossModule) and trainer.global_step % pl_module.log_every == 0:
            values = trainer.progress_bar_metrics
            names = [name for name in self._SHOWN if name in values]
            names += [name for name in values if name not in names]
            shown = {name: f"{float(values[name]):.3g}" for name in names[: self._MOST]}
            self.bar.set_postfix(shown, refresh=trainer.global_step == trainer.max_steps)

    def _done(self, trainer: L.Trainer, module: L.LightningModule) -> int:
        """Return steps, or seconds: whole ones."""
        if self.max_seconds is None or not isinstance(module, LossModule):
            return trainer.global_step
        return round(module.elapsed)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class SampleGrids(L.Callback):
    """Call `draw(step)` every so many steps, with the averaged weights, to show how samples come along.

    Args:
        draw: makes and saves the picture of a step.
        every: steps between pictures; 0 for none.
    """

    def __init__(self, draw: Callable[[int], None], every: int) -> None:
        self.draw, self.every = draw, every

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Draw when it is time."""
        step = trainer.global_step
        if self.every and step % self.every == 0 and step < trainer.max_steps and trainer.is_global_zero:
            self.draw(step)
