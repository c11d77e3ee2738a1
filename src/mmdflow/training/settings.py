"""The fields of the training loop, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmdflow import _checks, _settings


@dataclass(frozen=True)
class LoopSpec:
    """The training loop, as far as every method has it.

    Attributes:
        max_steps: optimiser steps.
        max_seconds: seconds of training after which it stops if it is not done, with the step size decayed to 0 by then; equal
            times for systems of unequal cost. No bound by default.
        optimizer: adamw, or muon: steps by orthogonal matrices, AdamW for what is no matrix.
        step_size: peak learning rate, about the largest change of a weight in a step; decays linearly to 0.
        betas: AdamW's.
        weight_decay: decoupled from the gradient.
        warmup_steps: steps of linear warm-up.
        ema_decay: of the average of the weights that is kept.
        gradient_clip: bound on the norm of the gradient.
        seed: of everything random.
        log_every: steps between logged values.
        checkpoint_every: steps between checkpoints.
        sample_every: steps between grids of samples; 0 for none.
        accelerator: auto, cpu or gpu.
        threads: of the CPU. By default one for small networks (parameters times entries of an event below 5e7); larger ones try
            1, 2, 4, ... up to torch's number in their first steps and keep the quickest, over resumes, too.
        precision: float32, or bfloat16 for matrix products and convolutions (autocast). auto is bfloat16 where the device
            multiplies it quicker than float32 (GPUs from Ampere on, CPUs with AMX), and float32 elsewhere.
        checkpointing: keep no activations of the residual blocks but compute them again in the backward pass: less memory.
        compile: evaluate the network through torch.compile; not with the full gradient, which needs a double backward.
        channels_last: keep images and weights channels last, which some devices convolve faster.
    """

    section: ClassVar[str] = "training."
    max_steps: int = 10_000
    max_seconds: float | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    step_size: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup_steps: int = 100
    ema_decay: float = 0.999
    gradient_clip: float = 5.0
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500
    sample_every: int = 2000
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        """Check choices and numbers."""
        _settings.check(
            self,
            counts=["max_steps", "log_every", "checkpoint_every", "threads"],
            positive=["step_size", "gradient_clip", "max_seconds"],
            non_negative=["weight_decay"],
        )
        for name in ("warmup_steps", "seed", "sample_every"):
            _checks.count(f"training.{name}", getattr(self, name), 0)
        for name, shares in (("betas", self.betas), ("ema_decay", [self.ema_decay])):
            for share in shares:
                _checks.interval(f"training.{name}", share, 0.0, 1.0, "[)")


@dataclass(frozen=True)
class BatchTrainingSpec(LoopSpec):
    """The training loop of the methods other than DMMD.

    Attributes:
        batch_size: events a step.
    """

    batch_size: int = 128

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        _settings.check(self, counts=["batch_size"])
