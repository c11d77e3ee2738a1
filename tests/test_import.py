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
    """The budget is 0.3 s of the processor, or a fifth of what torch takes there: a busy machine is slower at both."""
    start = "import time\nclock = time.process_time\nstart = clock()\nimport torch, numpy\nmiddle = clock()\nimport mmdflow\n"
    runs = [python(f"{start}{TOUCH}print(middle - start, clock() - middle)") for _ in range(3)]
    torch_seconds, seconds = (min(map(float, column)) for column in zip(*map(str.split, runs), strict=True))
    assert seconds < max(0.3, torch_seconds / 5)


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
