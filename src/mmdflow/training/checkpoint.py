"""The checkpoint of a run: read once, whole or not at all, with the one before it to fall back on."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mmdflow import _run_folder
from mmdflow._files import reading
from mmdflow.errors import InputError

log = logging.getLogger(__name__)


def checkpoint_path(folder: Path) -> Path:
    """Return where a run's checkpoint lies."""
    return folder / _run_folder.CHECKPOINTS / _run_folder.CHECKPOINT


def previous_path(path: Path) -> Path:
    """Return where the checkpoint before a checkpoint lies."""
    return path.with_name(_run_folder.PREVIOUS)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return a run's checkpoint, or None where there is none yet.

    Every part of the file is compared with its checksum. Where it is damaged, a warning says so, and the one before it is
    returned: training goes on from there to the same end.

    Raises:
        InputError: if both are damaged, or there is no other.
    """
    path = checkpoint_path(folder)
    previous = previous_path(path)
    if not path.exists():
        if not previous.exists():
            return None
        log.warning("%s: missing; going on from the checkpoint before it", path)
        return _read(previous)
    try:
        return _read(path)
    except InputError as error:
        try:
            checkpoint = _read(previous)
        except InputError:  # damaged, too, or there is none
            raise error from None
        log.warning("%s: going on from the checkpoint before it", str(error).removesuffix("; remove it to start again"))
        return checkpoint


def _read(path: Path) -> dict[str, Any]:
    with reading(path, "damaged checkpoint"):
        try:
            data = path.read_bytes()
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if (part := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {part} differs")
            checkpoint: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            _ = checkpoint["global_step"], checkpoint["mmdflow_seconds"], checkpoint["state_dict"]
        except OSError:
            raise
        except Exception as error:
            raise InputError(
                f"{path}: damaged checkpoint ({type(error).__name__}); remove it to start again"
            ) from error
    return checkpoint


class CheckpointFile(TorchCheckpointIO):
    """How Lightning reads and writes the file of a checkpoint.

    Args:
        checkpoint: that was read before: what was checked is what is loaded, whatever the file is by then.
    """

    def __init__(self, checkpoint: dict[str, Any] | None) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def load_checkpoint(self, path: Any, *args: Any, **settings: Any) -> dict[str, Any]:
        """Return the checkpoint that was read."""
        assert self.checkpoint is not None
        return self.checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint into a folder that is there; Lightning's own would make a removed one anew."""
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)
