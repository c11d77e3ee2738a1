"""`import mmdflow` is light."""

import subprocess
import sys

import pytest

import mmdflow

HEAVY = ["lightning", "diffusers", "datasets", "torchmetrics", "matplotlib", "sklearn", "pandas", "tensorboard"]
TOUCH = "for name in mmdflow.__all__: getattr(mmdflow, name)\n"


def python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_public_names_load_nothing_heavy():
    assert python(f"import sys, mmdflow\n{TOUCH}print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_import_is_quick_beyond_torch():
    """The budget is 0.3 s of the processor; the least of three keeps a busy machine from failing it."""
    start = "import torch, numpy, time\nstart = time.process_time()\nimport mmdflow\n"
    seconds = [float(python(f"{start}{TOUCH}print(time.process_time() - start)")) for _ in range(3)]
    assert min(seconds) < 0.3


def test_flow_stays_the_function():
    code = "import mmdflow.flows, mmdflow; from mmdflow import flow; print(callable(flow) and callable(mmdflow.flow))"
    assert python(code) == "True"


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Gausian'"):
        mmdflow.Gausian  # noqa: B018
    assert "Gaussian" in dir(mmdflow)


def test_modules_load_by_attribute():
    assert (
        python("import mmdflow; print(mmdflow.functional.mmd2.__name__, mmdflow.metrics.__name__)")
        == "mmd2 mmdflow.metrics"
    )
