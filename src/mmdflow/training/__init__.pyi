from .batches import StepBatches, step_generator
from .callbacks import Checkpoints, SampleGrids, StepProgress
from .module import LossModule
from .run import fit, read_log
from .settings import BatchTrainingSpec, LoopSpec

__all__ = [
    "BatchTrainingSpec",
    "Checkpoints",
    "LoopSpec",
    "LossModule",
    "SampleGrids",
    "StepBatches",
    "StepProgress",
    "fit",
    "read_log",
    "step_generator",
]
