"""`import mmdflow` is light."""

import json
import subprocess
import sys

import pytest

import mmdflow

HEAVY = ["lightning", "diffusers", "datasets", "torchmetrics", "matplotlib", "sklearn", "pandas", "tensorboard"]
TOUCH = "for name in mmdflow.__all__: getattr(mmdflow, name)\n"
TIMED = f"import time\nstart = time.process_time()\nimport mmdflow\n{TOUCH}print(time.process_time() - start)"
CODES = {
    "heavy": f"import sys, mmdflow\n{TOUCH}print([m for m in {HEAVY} if m in sys.modules])",
    "seconds, first": TIMED,
    "seconds, second": TIMED,
    "seconds, third": TIMED,
    "flow": "import mmdflow.flows, mmdflow; from mmdflow import flow; print(callable(flow) and callable(mmdflow.flow))",
    "attributes": "import mmdflow; print(mmdflow.functional.mmd2.__name__, mmdflow.metrics.__name__)",
}
#: Runs every code in a fork of a process that has imported torch and NumPy, but not mmdflow; each prints a line.
FORKS = """
import json, os, sys
import numpy, torch
for code in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        exec(code, {})
        break
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: {code}")
"""


@pytest.fixture(scope="module")
def printed():
    """What each of the codes prints, in an interpreter of its own that has not imported mmdflow."""
    command = [sys.executable, "-c", FORKS, json.dumps(list(CODES.values()))]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return dict(zip(CODES, lines, strict=True))


def test_public_names_load_nothing_heavy(printed):
    assert printed["heavy"] == "[]"


def test_import_is_quick_beyond_torch(printed):
    """The budget is 0.3 s of the processor; the least of three keeps a busy machine from failing it."""
    assert min(float(printed[f"seconds, {which}"]) for which in ("first", "second", "third")) < 0.3


def test_flow_stays_the_function(printed):
    assert printed["flow"] == "True"


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Gausian'"):
        mmdflow.Gausian  # noqa: B018
    assert "Gaussian" in dir(mmdflow)


def test_modules_load_by_attribute(printed):
    assert printed["attributes"] == "mmd2 mmdflow.metrics"
