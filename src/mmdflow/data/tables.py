"""Images in parquet files and saved Hugging Face data sets, through the optional package `datasets`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmdflow.data.decode import Encoded
from mmdflow.errors import InputError

_LABELS = ("label", "labels", "fine_label")


def is_table(path: Path) -> bool:
    """Whether a path is a parquet file, a folder of them (in itself or in data/), or a saved Hugging Face data set."""
    if path.suffix.lower() == ".parquet" and path.is_file():
        return True
    return _is_saved(path) or bool(_parquet(path))


def table_pictures(path: Path, split: str, names: Sequence[str]) -> Encoded:
    """Return the pictures of a split, known by one of `names`, and the labels where there is a column of them.

    Raises:
        InputError: if the split or a column of images is missing, or the files cannot be read.
        ImportError: if `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{path}: parquet and Hugging Face data need datasets: pip install 'mmdflow[hub]'") from None
    try:
        if _is_saved(path):
            table = datasets.load_from_disk(str(path))
            if isinstance(table, dict):  # a DatasetDict is one
                table = _of_split(table, path, split, names)
        else:
            files = [path] if path.is_file() else _parquet(path)
            parts = {name: [str(f) for f in files if f.stem.split("-")[0] == name] for name in names}
            chosen = _of_split({k: v for k, v in parts.items() if v}, path, split, names) if len(files) > 1 else files
            table = datasets.Dataset.from_parquet([str(file) for file in chosen])
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a readable data set ({reason})") from error
    columns = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if len(columns) != 1:
        found = ", ".join(columns) or "none"
        raise InputError(f"{path}: has {found} of its columns {', '.join(table.features)} for images: must have one")
    column = columns[0]
    table = table.cast_column(column, datasets.Image(decode=False))
    label = next((name for name in _LABELS if name in table.features), None)

    def picture(i: int) -> Path | bytes:
        row: dict[str, Any] = table[i][column]
        return row["bytes"] if row["bytes"] is not None else Path(row["path"])

    return Encoded(
        len(table),
        picture,
        lambda i: f"{path}, row {i}",
        hashlib.sha256(f"{path.resolve()} {split} {table._fingerprint}".encode()).hexdigest(),
        None if label is None else torch.tensor(table[label][:], dtype=torch.int64),
    )


def _of_split(parts: dict[str, Any], path: Path, split: str, names: Sequence[str]) -> Any:
    for name in names:
        if name in parts:
            return parts[name]
    raise InputError(
        f"{path}: has the parts {', '.join(parts) or 'none'}: must have one of {', '.join(names)}, as split = {split!r}"
    )


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def _parquet(path: Path) -> list[Path]:
    return sorted([*path.glob("*.parquet"), *(path / "data").glob("*.parquet")]) if path.is_dir() else []
