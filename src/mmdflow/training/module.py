"""The Lightning module around a loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mmdflow._bfloat16 import resolve
from mmdflow.training.batches import step_generator
from mmdflow.training.muon import Muon, hidden_and_rest
from mmdflow.training.settings import LoopSpec
from mmdflow.training.threads import Threads


class Terms(Protocol):
    """What a loss module returns."""

    total: Tensor

    def scalars(self) -> dict[str, float]:
        """Return the numbers to log."""
        ...

    def check_finite(self) -> None:
        """Raise if the loss is not finite, and say where."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A loss that is trained in stages of equal shares of the training, in order, none left out."""

    num_stages: int

    def enter(self, stage: int, generator: torch.Generator) -> None:
        """Prepare a stage, 0, 1, ..., before its first step; a resume does not enter again.

        So what it prepares, and the number of the stage itself, belong in buffers, which checkpoints hold.
        """
        ...


@runtime_checkable
class WithParameterGroups(Protocol):
    """A loss whose parts are learned at different step sizes."""

    def parameter_groups(self) -> Sequence[tuple[nn.Module, float]]:
        """Return every learned part with the factor of its step size."""
        ...


class LossModule(L.LightningModule):
    """Minimise `loss(batch, generator).total`, with linear warm-up and decay, and keep an average of the learned part.

    Of batches that have labels it is `loss(batch, generator, labels).total`.

    A parameter that has no gradient in a step is left as it is, so that a loss can take turns. Warm-up and decay start
    anew in every stage of a `Staged` loss.

    Args:
        loss: a module that returns `Terms`; it may be `Staged` or `WithParameterGroups`.
        learned: the part of it that is learned and averaged (the noise-conditional kernel for DMMD).
        loop: the settings of the loop. An average starts shorter than `loop.ema_decay`, as (1 + s) / (10 + s) after s steps; 0
            keeps none. Of `max_seconds` count those of training, over all resumes.
        clock: measures the seconds of training, `time.process_time` for CPU time.
    """

    def __init__(
        self, loss: nn.Module, learned: nn.Module, loop: LoopSpec, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.loss = loss
        self.loop, self.clock = loop, clock
        self.log_every = min(loop.log_every, loop.max_steps)
        self.threads = Threads(loop.threads)

        def average(averaged: Any, current: Any, count: Any) -> None:
            step = float(count)
            torch._foreach_lerp_(averaged, current, 1 - min(loop.ema_decay, (1 + step) / (10 + step)))

        self.ema = AveragedModel(learned, multi_avg_fn=average).requires_grad_(False) if loop.ema_decay else None
        self._learned = [learned]  # in a list: registered once, inside the loss
        self._copy = [deepcopy(learned).requires_grad_(False)] if self.ema is None else []
        self.seconds = 0.0
        self.steps = 0
        self.trained_on = "cpu"
        self.precision: str = loop.precision
        self.stage, self.stage_span = -1, (0.0, 0.0)  # the shares of the training done where it begins and ends
        self.stage_step = 0  # the step where it begins
        self._other_length = False  # whether the checkpoint is of a run of other max_steps
        self._since: float | None = None  # when the clock was started; it stands still before training and in pauses

    def training_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of the step; raise when it is not finite."""
        step = self.global_step
        events, *labels = [batch] if isinstance(batch, Tensor) else batch
        self.threads.begin_step(step, self._learned[0], events)
        generator = step_generator(self.loop.seed, step, self.device)
        if isinstance(self.loss, Staged) and self._stage_is_over(self.done):
            self.stage += 1
            self.loss.enter(self.stage, generator)
            start, self.stage_step = self.done, step
            self.stage_span = (start, start + (1 - start) / (self.loss.num_stages - self.stage))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            terms: Terms = self.loss(events, generator, *labels)
        terms.check_finite()
        if (step + 1) % self.log_every == 0:
            self.log_dict(terms.scalars(), prog_bar=True, logger=False)  # `Logs` writes them
        return terms.total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the average."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update_parameters(self._learned[0])
        self.threads.end_step()

    @property
    def averaged(self) -> nn.Module:
        """The average of the learned part; with ema_decay 0 a copy of what it is now, made at each call."""
        if self.ema is not None:
            return self.ema.module
        self._copy[0].load_state_dict(self._learned[0].state_dict())
        return self._copy[0]

    def configure_optimizers(self) -> Any:
        """Return the optimiser, with warm-up and linear decay."""
        parts = self.loss.parameter_groups() if isinstance(self.loss, WithParameterGroups) else [(self.loss, 1.0)]
        common: dict[str, Any] = {"betas": self.loop.betas, "weight_decay": self.loop.weight_decay}
        optimiser: torch.optim.Optimizer
        if self.loop.optimizer == "muon":
            split = [
                {"params": params, "lr": self.loop.step_size * factor, "orthogonal": orthogonal}
                for part, factor in parts
                for orthogonal, params in hidden_and_rest(part).items()
            ]
            optimiser = Muon(split, **common)
        else:
            groups = [
                {"params": [p for p in part.parameters() if p.requires_grad], "lr": self.loop.step_size * factor}
                for part, factor in parts
            ]
            optimiser = torch.optim.AdamW(groups, **common, fused=True)

        def factor(step: int) -> float:
            done, (start, end) = self._done(step), self.stage_span if self.stage >= 0 else (0.0, 1.0)
            if self._stage_is_over(done):
                return 1 / (self.loop.warmup_steps + 1)
            left = (end - done) / max(end - start, 1e-9)
            return min((step - self.stage_step + 1) / (self.loop.warmup_steps + 1), max(0.0, left))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _stage_is_over(self, done: float) -> bool:
        """Whether the next step is the first of another stage, at a share of the training."""
        another = isinstance(self.loss, Staged) and self.stage + 1 < self.loss.num_stages
        return another and done >= self.stage_span[1] - 1e-9

    def _done(self, step: int) -> float:
        done = step / self.loop.max_steps
        return done if self.loop.max_seconds is None else max(done, self.elapsed / self.loop.max_seconds)

    @property
    def done(self) -> float:
        """The share of the training that is done, of its steps or of its seconds, whichever is more."""
        return self._done(self.global_step)

    @property
    def elapsed(self) -> float:
        """Seconds of training until now, over all resumes."""
        return self.seconds + (0.0 if self._since is None else self.clock() - self._since)

    @property
    def finished(self) -> bool:
        """Whether the time is up."""
        return self.loop.max_seconds is not None and self.elapsed >= self.loop.max_seconds

    def on_train_batch_end(self, *args: Any) -> None:
        """Count the step; stop when the time is up."""
        self.steps = self.global_step
        if self.finished:
            self.trainer.should_stop = True

    def on_train_start(self) -> None:
        """Start the clock, and take up the step size of a longer run than the one that was saved."""
        self._since = self.clock()
        if self._other_length:
            for scheduler in self.trainer.lr_scheduler_configs:
                plan: Any = scheduler.scheduler
                for group, base, factor in zip(
                    plan.optimizer.param_groups, plan.base_lrs, plan.lr_lambdas, strict=True
                ):
                    group["lr"] = base * factor(self.global_step)
        self.precision = resolve(self.loop.precision, self.device)
        cuda = self.device.type == "cuda"
        self.trained_on = torch.cuda.get_device_name(self.device) if cuda else str(self.device)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Keep the clock still meanwhile: for pictures."""
        self.seconds, self._since = self.elapsed, None
        try:
            yield
        finally:
            self._since = self.clock()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the clock: `seconds` of training so far, over all resumes."""
        self.seconds = self.elapsed
        self._since = None if self._since is None else self.clock()
        checkpoint["mmdflow_seconds"], checkpoint["mmdflow_trained_on"] = self.seconds, self.trained_on
        checkpoint["mmdflow_precision"] = self.precision
        checkpoint["mmdflow_stage"] = (self.stage, *self.stage_span, self.stage_step)
        checkpoint["mmdflow_max_steps"] = self.loop.max_steps
        checkpoint["mmdflow_threads"] = self.threads.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the clock up again."""
        self.steps = int(checkpoint["global_step"])
        self.seconds, self.trained_on = float(checkpoint["mmdflow_seconds"]), str(checkpoint["mmdflow_trained_on"])
        self.precision = str(checkpoint.get("mmdflow_precision", self.loop.precision))
        self.stage, *span, self.stage_step = checkpoint.get("mmdflow_stage", (-1, 0.0, 0.0, 0))
        self.stage_span = (span[0], span[1])
        planned = int(checkpoint.get("mmdflow_max_steps", self.loop.max_steps))
        self._other_length = planned != self.loop.max_steps
        if self._other_length and self.stage >= 0 and isinstance(self.loss, Staged):  # shares of another length
            start = span[0] * planned / self.loop.max_steps
            self.stage_span = (start, start + (1 - start) / (self.loss.num_stages - self.stage))
        if "mmdflow_threads" in checkpoint:
            self.threads.load(checkpoint["mmdflow_threads"])
