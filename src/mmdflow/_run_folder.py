"""The names of the files in a run folder, which stand here and nowhere else."""

from __future__ import annotations

RECIPE = "recipe.yaml"
PROVENANCE = "provenance.json"
CHECKPOINTS = "checkpoints"
CHECKPOINT = "last.ckpt"  # in CHECKPOINTS
PREVIOUS = "previous.ckpt"  # in CHECKPOINTS
LOCK = ".lock"
LOGS = "logs"
TENSORBOARD = "tensorboard"
SAMPLE_GRIDS = "samples"
PIPELINE = "pipeline"
CURVES = "curves.png"
METRICS = "metrics.json"
REPORT = "report.png"

#: All that a run, its evaluation and the examples of the documentation write there. Anything else keeps a folder from being
#: overwritten.
FILES = frozenset(
    {RECIPE, PROVENANCE, CHECKPOINTS, LOGS, TENSORBOARD, SAMPLE_GRIDS, PIPELINE, CURVES, METRICS, REPORT, LOCK}
    | {"samples.png", "samples.npz", "flow.gif", "flow.mp4"}
)
