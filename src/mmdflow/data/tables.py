"""Images in parquet files, saved Hugging Face data sets and those of the hub, through the optional package `datasets`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmdflow._files import reading
from mmdflow.data.decode import Encoded, Opened, Picture, files_identity
from mmdflow.errors import InputError, MissingPartError, reason

#: What a data set of the Hugging Face hub begins with: hub:OWNER/NAME[@CONFIG][#REVISION].
HUB = "hub:"
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
    _datasets(f"{path}: parquet and Hugging Face data need")
    with reading(path, "not a readable data set"):
        parts = _saved_parts(path) if _is_saved(path) else _parquet_parts(path, splits)
        table = _part(str(path), parts, split, splits)()
    table, column, label = _columns(str(path), table)
    return Encoded(
        hashlib.sha256(f"{path.resolve()} {split} {table._fingerprint}".encode()).hexdigest(),
        lambda i: f"{path}, row {i}",
        lambda: Opened(len(table), _pictures(str(path), table, column, label)),
    )


def hub_pictures(name: str, split: str, splits: Mapping[str, Sequence[str]]) -> Encoded:
    """Return the pictures of a split of hub:OWNER/NAME, streamed when they are decoded; the hub is not called before.

    OWNER/NAME may also be a folder that `datasets.load_dataset` reads.

    Raises:
        InputError: for a name that is none; when opened, if the hub cannot be reached, or the split or a column of images is
            missing.
        ImportError: when opened, if `datasets` is not installed.
    """
    place, folder = name[len(HUB) :], Path(name[len(HUB) :])
    if place and folder.is_dir():
        repository, config, revision = place, "", ""
        identity = files_identity(sorted(file for file in folder.rglob("*") if file.is_file()), folder)
    elif match := re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([^@#\s]+))?(?:#([^@#\s]+))?", place):
        repository, config, revision = match.groups("")
        identity = "as it was when it was decoded"
    else:
        raise InputError(f"{name}: must be hub:OWNER/NAME, with @CONFIG and #REVISION after it where wanted")

    def opened() -> Opened:
        datasets = _datasets(f"{name}: data of the Hugging Face hub need")
        try:
            builder = datasets.load_dataset_builder(repository, config or None, revision=revision or None)
            parts = builder.as_streaming_dataset()
        except Exception as error:  # of the network, its clients and the files' readers, each with their own
            raise InputError(f"{name}: cannot be opened ({reason(error)})") from error
        table = _part(name, parts, split, splits)
        known = (table.info.splits or {}).get(str(table.split))
        table, column, label = _columns(name, table)
        count = None if known is None else known.num_examples
        # A repository's hash is that of its commit
        return Opened(count, _pictures(name, table, column, label), "" if folder.is_dir() else builder.hash or "")

    return Encoded(f"{name} {split} {identity}", lambda i: f"{name}, row {i}", opened)


def _datasets(what: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{what} datasets: pip install 'mmdflow[hub]'") from None
    return datasets


def _part(where: str, parts: Mapping[str, Any], split: str, splits: Mapping[str, Sequence[str]]) -> Any:
    """Return the part of a data set that a split is, by any of its names."""
    name = next((name for name in splits[split] if name in parts), None)
    if name is None:
        allowed = ", ".join(splits[split])
        raise MissingPartError(
            f"{where}: has the parts {', '.join(parts)}: must have one of {allowed}, as split = {split!r}"
        )
    return parts[name]


def _columns(where: str, table: Any) -> tuple[Any, str, str | None]:
    """Return a table of nothing but its images, left encoded, and class indices; and their names."""
    import datasets

    kinds = table.features or {}
    columns = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    if len(columns) != 1:
        present = ", ".join(columns) or "none"
        raise InputError(f"{where}: has {present} of its columns {', '.join(kinds)} for images: must have one")
    column = columns[0]
    label = next((name for name in _LABELS if str(getattr(kinds.get(name), "dtype", "")).startswith("int")), None)
    table = table.select_columns([column] if label is None else [column, label])
    return table.cast_column(column, datasets.Image(decode=False)), column, label


def _pictures(where: str, table: Any, column: str, label: str | None) -> Iterator[Picture]:
    rows = iter(table)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # of the network, its clients and the files' readers, each with their own
            raise InputError(f"{where}: broke off while it was read ({reason(error)})") from error
        if row is None:
            return
        yield partial(_picture_bytes, row[column]), None if label is None else row[label]


def _picture_bytes(held: dict[str, Any] | None) -> bytes:
    if held is None:
        raise ValueError("empty")
    if held["bytes"] is not None:
        return held["bytes"]
    path: str = held["path"]
    if "://" not in path:
        return Path(path).read_bytes()
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except Exception as error:  # of the network and its clients
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error


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
