"""Images in parquet files and saved Hugging Face data sets, through the optional package `datasets`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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


def table_pictures(path: Path, split: str, splits: Mapping[str, Sequence[str]]) -> Encoded:
    """Return the pictures of a split, known by any of the names that `splits` has for it, and labels where there are any.

    Raises:
        InputError: if the split or a column of images is missing, or the files cannot be read.
        ImportError: if `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{path}: parquet and Hugging Face data need datasets: pip install 'mmdflow[hub]'") from None
    try:
        parts = _saved_parts(path) if _is_saved(path) else _parquet_parts(path, splits)
        name = next((name for name in splits[split] if name in parts), None)
        if name is not None:
            table = parts[name]()
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a readable data set ({reason})") from error
    if name is None:
        allowed = ", ".join(splits[split])
        raise InputError(f"{path}: has the parts {', '.join(parts)}: must have one of {allowed}, as split = {split!r}")
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


def _saved_parts(path: Path) -> dict[str, Callable[[], Any]]:
    """Return what reads each part of a saved data set; one without parts is all training data."""
    import datasets

    saved = datasets.load_from_disk(str(path))
    parts = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    return {name: partial(parts.__getitem__, name) for name in parts}


def _parquet_parts(path: Path, splits: Mapping[str, Sequence[str]]) -> dict[str, Callable[[], Any]]:
    """Return what reads each part of parquet files, by the first word of their names; without such names all is training data."""
    import datasets

    files = [path] if path.is_file() else _parquet(path)
    known = [name for names in splits.values() for name in names]
    named = {name: [str(file) for file in files if file.stem.split("-")[0] == name] for name in known}
    parts = {name: some for name, some in named.items() if some and not path.is_file()}
    parts = parts or {"train": [str(file) for file in files]}
    return {name: partial(datasets.Dataset.from_parquet, some) for name, some in parts.items()}


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def _parquet(path: Path) -> list[Path]:
    return sorted([*path.glob("*.parquet"), *(path / "data").glob("*.parquet")]) if path.is_dir() else []
