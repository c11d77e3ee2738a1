"""Figures and tables of the papers, made again: each says whether the published claim was seen.

A reproduction is a module with TITLE (one line for lists), SCALES ("small", minutes on 2 CPU cores, and "full", the paper's
settings: keyword arguments of `run`), and `run(*, seed, progress, **settings) -> Outcome`. Many settings make a dataclass, a
`Study`, whose `run` it then is. Its name on the command line is its file's, with hyphens. A module with TRAINS = True takes
`runs` besides: the folder in which it trains models, and loads them again. Settings with `features` let the caller choose what
samples are judged by.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from mmdflow import _checks
from mmdflow.studies.base import Outcome, Study, reproduce

__all__ = ["NAMES", "Outcome", "Study", "module", "reproduce"]

#: The reproductions, by paper; their modules load on first use.
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
    "one-step",
)


def module(name: str) -> ModuleType:
    """Return the module of a reproduction."""
    _checks.choice("name", name, NAMES)
    return importlib.import_module(f"mmdflow.studies.{name.replace('-', '_')}")
