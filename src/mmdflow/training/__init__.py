"""Training around any module that returns a loss: Lightning, EMA, atomic checkpoints, exact resume."""

from mmdflow.training.batches import StepBatches, step_generator
from mmdflow.training.callbacks import Checkpoints, SampleGrids, StepProgress
from mmdflow.training.module import LossModule
from mmdflow.training.run import TrainOptions, fit, read_log

__all__ = [
    "Checkpoints",
    "LossModule",
    "SampleGrids",
    "StepBatches",
    "StepProgress",
    "TrainOptions",
    "fit",
    "read_log",
    "step_generator",
]
