from .batches import StepBatches, step_generator
from .callbacks import Checkpoints, SampleGrids, StepProgress
from .module import LossModule
from .muon import Muon
from .run import fit, read_log
from .settings import BatchTrainingSpec, LoopSpec

__all__ = [
    "BatchTrainingSpec",
    "Checkpoints",
    "LoopSpec",
    "LossModule",
    "Muon",
    "SampleGrids",
    "StepBatches",
    "StepProgress",
    "fit",
    "read_log",
    "step_generator",
]
