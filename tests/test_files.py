import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from mmdflow._files import new_file, new_folder


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_aside_gets_the_permissions_of_any_new_file(tmp_path, umask):
    """Weights too, which safetensors would keep for their owner alone."""
    with new_folder(tmp_path / "model") as folder:
        save_file({"x": torch.zeros(1)}, folder / "x.safetensors")
        (folder / "part").mkdir()
        (folder / "part" / "config.json").write_text("{}")
    with new_file(tmp_path / "y.safetensors") as aside:
        save_file({"y": torch.zeros(1)}, aside)
    assert mode(tmp_path / "model") == mode(tmp_path / "model" / "part") == 0o750
    for file in ("model/x.safetensors", "model/part/config.json", "y.safetensors"):
        assert mode(tmp_path / file) == 0o640
