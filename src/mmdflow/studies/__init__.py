"""Figures and tables of the papers, made again: each says whether the published claim was seen.

A reproduction is a module with TITLE (one line for lists), SCALES ("small", minutes on 2 CPU cores, and "full", the paper's
settings: keyword arguments of `run`), and `run(*, seed, progress, **settings) -> Outcome`. Its name on the command line is its
file's, with hyphens. One with TRAINS = True is given `runs` besides: the folder in which it trains models, and finds them again.
One whose settings name `features` judges samples by them, and may be asked for others.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from mmdflow import _checks
from mmdflow.studies.base import Outcome, reproduce

__all__ = ["NAMES", "Outcome", "module", "reproduce"]

#: The reproductions, by paper; the modules load when they are asked for.
NAMES = (
    "indistinguishable",
    "noise-injection",
    "student-teacher",
    "three-rings",
    "gaussian-mixture",
    "shape-transfer",
    "mode-seeking",
    "adaptive-bandwidth",
    "checkerboard-widths",
    "table1",
    "table2",
    "table3",
    "ablation-nfe",
    "ablation-particles",
    "ablation-kernels",
    "sliced-cost",
    "sliced-distances",
    "sliced-momentum",
    "sliced-kernels",
)


def module(name: str) -> ModuleType:
    """Return the module of a reproduction."""
    _checks.choice("name", name, NAMES)
    return importlib.import_module(f"mmdflow.studies.{name.replace('-', '_')}")
