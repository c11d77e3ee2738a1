import pytest

from mmdflow import studies


@pytest.fixture(scope="module")
def outcome(request):
    """The outcome of the study that a test module is named after, at the module's TINY settings."""
    name = request.module.__name__.rpartition("test_")[2].replace("_", "-")
    return studies.module(name).run(**request.module.TINY, seed=0, progress=False)
