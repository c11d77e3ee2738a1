"""mmdflow: gradient flows of the Maximum Mean Discrepancy, as particle flows and as generative models.

The public names, listed in `__init__.pyi`, load on first use: `import mmdflow` (and `mmdflow --help`) cost next to nothing.
"""

import importlib
import importlib.util
from typing import Any

import lazy_loader

__version__ = "0.2.0"

_load, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
#: They load like the others, but need scikit-learn, so that `from mmdflow import *` leaves them out.
_ESTIMATORS = ("KernelTwoSampleTest", "MMDQuantizer", "MMDTransport")
__all__ = [name for name in _names if name not in _ESTIMATORS]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use, or a module such as `mmdflow.metrics` (PEP 562)."""
    if name in _names:
        return _load(name)
    if not name.startswith("_") and importlib.util.find_spec(f"mmdflow.{name}") is not None:
        return importlib.import_module(f"mmdflow.{name}")
    raise AttributeError(f"module 'mmdflow' has no attribute {name!r}")
