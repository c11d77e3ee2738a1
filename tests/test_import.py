"""`import mmdflow` is light."""

import json
import subprocess
import sys

import pytest

import mmdflow

#: All that the public names load beyond torch, NumPy and the standard library.
LIGHT = {"jaxtyping", "lazy_loader", "mmdflow", "safetensors", "tqdm"}
LOADED = """
import sys
before = set(sys.modules)
import mmdflow
for name in mmdflow.__all__: getattr(mmdflow, name)
new = {module.partition(".")[0] for module in set(sys.modules) - before}
print(*sorted(new - sys.stdlib_module_names - {"numpy", "torch"}))
"""
CODES = {
    "loaded": LOADED,
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
    assert set(printed["loaded"].split()) == LIGHT


def test_the_package_itself_loads_no_torch():
    """Names are loaded when they are asked for, so that the command line answers at once."""
    code = "import sys, mmdflow; print('torch' in sys.modules, 'numpy' in sys.modules)"
    line = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert line.split() == ["False", "False"]


def test_flow_stays_the_function(printed):
    assert printed["flow"] == "True"


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Gausian'"):
        mmdflow.Gausian  # noqa: B018
    assert "Gaussian" in dir(mmdflow)


def test_modules_load_by_attribute(printed):
    assert printed["attributes"] == "mmd2 mmdflow.metrics"
