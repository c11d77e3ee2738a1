"""Shapes and types of every public function are checked while the tests run (jaxtyping + beartype)."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import config, install_import_hook

import tests.typechecking  # the hook finds it as an attribute of the package

REPRODUCE = "MMDFLOW_REPRODUCE" in os.environ  # slow reproductions run as users run: unchecked, on all threads
if not REPRODUCE:
    install_import_hook("mmdflow", "tests.typechecking.checker")

import pytest
import torch
from hypothesis import settings

from mmdflow._bfloat16 import spare_amx

spare_amx()  # before any test convolves

settings.register_profile("mmdflow", deadline=None, derandomize=True, max_examples=15)
settings.load_profile("mmdflow")
if not REPRODUCE:
    torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    tests.typechecking.begin()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def unchecked():
    """Switch the run-time checks off, so that bad input meets the library's own messages, as it does for users."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep the users' cache out of the tests; the workers of one run share theirs, as processes of a user do."""
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["MMDFLOW_CACHE"] = str(run / "cache")
