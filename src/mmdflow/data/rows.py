"""Rows of a file whose columns move: read with all that stands beside them, and written back in their order."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow._files import new_file, reading
from mmdflow.data.point_tables import write_h5ad
from mmdflow.data.points import TABLES, read_npz_entry, read_points, save_points, split_entry
from mmdflow.errors import InputError

_DELIMITERS = (",", ";", "\t", "|")
#: Names of columns that name rows.
_ID = re.compile(r"(^|[\W_])(id|ids|index|key|barcode)$|^$|^unnamed: 0$", re.IGNORECASE)


@dataclass(frozen=True)
class Text:
    """A file of text with a row a line.

    Attributes:
        names: of the columns; "1", "2", ... where the file has no header.
        columns: their entries, as they stand.
        header: whether the file has one.
        delimiter: between entries.
        decimal: the decimal point, or comma.
        preamble: lines before all, which begin with #.
    """

    names: list[str]
    columns: list[list[str]]
    header: bool
    delimiter: str = ","
    decimal: str = "."
    preamble: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rows:
    """Rows of a file as points, and what is needed to write them back.

    Attributes:
        points: the chosen columns, [n, *event].
        moved: names of these columns; empty for a file that has none.
        kept: names of the others.
        table: all columns, as `Text` or a table of pyarrow; None for a file without columns.
        path: of the file, with its entry.
    """

    points: Float[Tensor, "n *event"]
    moved: list[str]
    kept: list[str]
    table: Any
    path: str

    def take(self, index: Int[Tensor, " k"]) -> Rows:
        """Return some of the rows."""
        order = index.tolist()
        table = self.table
        if isinstance(table, Text):
            table = replace(table, columns=[[column[i] for i in order] for column in table.columns])
        elif table is not None:
            table = table.take(order)
        return replace(self, points=self.points[index], table=table)

    def save(self, points: Float[Tensor, "n *event"], path: str | Path) -> None:
        """Write the rows with their columns replaced by points: whole or not at all.

        A table comes back with header, order and all other columns, as .csv or .tsv (with its own delimiter where the ending is
        the same), or .parquet. An entry of an .npz or .h5ad file comes back in a copy of the file; X of an .h5ad file as the
        entry X_moved of `obsm`. Other endings hold the points alone.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if self.table is not None and ending in TABLES:
            values = points.detach().cpu().reshape(len(points), -1).numpy()
            (_write_parquet if ending == ".parquet" else _write_text)(self, values, path)
        elif ending == ".npz" and split_entry(self.path)[0].suffix.lower() == ".npz":
            _write_entry(self.path, points, path)
        elif ending == ".h5ad":
            source, entry = split_entry(self.path)
            if source.suffix.lower() != ".h5ad":
                raise InputError(f"{path}: only what came from an .h5ad file is saved as one, and {self.path} did not")
            write_h5ad(source, entry, points.detach().cpu().numpy(), path)
        elif ending == ".parquet":
            raise InputError(f"{path}: only tables are saved as .parquet, and {self.path} is none")
        else:
            save_points(points, path)


def read_rows(
    path: str | Path, columns: Sequence[str] | None = None, ids: Sequence[str] = (), *, like: Rows | None = None
) -> Rows:
    """Read the rows of a file of points.

    Args:
        path: as `read_points` takes it.
        columns: names of those that are coordinates; by default all that hold numbers, but for `ids` and those whose name says
            that they name rows (id, sample_id, index, barcode, ...).
        ids: names of columns that are not coordinates.
        like: rows whose columns these must have: by name where both have names, else in their order.

    Raises:
        InputError: for a column that there is not, or one in which some entries are numbers and others are not.
    """
    file = split_entry(path)[0]
    if file.suffix.lower() not in TABLES:
        if (columns or ids) and like is None:
            raise InputError(f"{path}: has no columns with names: columns and id are for {', '.join(TABLES)}")
        points = read_points(path)
        if like is not None and points.shape[1:] != like.points.shape[1:]:
            raise InputError(
                f"{path} has event shape {list(points.shape[1:])}: must be {list(like.points.shape[1:])}, as {like.path}"
            )
        return Rows(points, [], [], None, str(path))
    table = _read_parquet(file) if file.suffix.lower() == ".parquet" else read_text_table(file)
    names = list(table.names if isinstance(table, Text) else table.column_names)
    named = not isinstance(table, Text) or table.header
    if like is not None:
        ids = [name for name in ids if name in names]
        if named and _has_names(like):
            columns = like.moved
    chosen, arrays = _chosen(file, table, names, columns, ids)
    if like is not None and len(chosen) != like.points.shape[-1]:
        raise InputError(
            f"{path}: has {len(chosen)} columns of numbers ({', '.join(chosen[:8])}): must have {like.points.shape[-1]}, as "
            f"{like.path}"
        )
    points = _checks.points(str(path), torch.from_numpy(np.column_stack(arrays)))
    return Rows(points, chosen, [name for name in names if name not in chosen], table, str(path))


def _has_names(rows: Rows) -> bool:
    return rows.table is not None and (not isinstance(rows.table, Text) or rows.table.header)


def read_text_table(file: Path) -> Text:
    """Read a .csv or .tsv file: delimiter, decimal comma and header are found by looking at it.

    Raises:
        InputError: for a file that is missing or empty, or rows of different lengths; names the line.
    """
    with reading(file):
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    start = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    preamble, body = lines[:start], lines[start:]
    first = next((line for line in body if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count) if any(mark in first for mark in _DELIMITERS) else ","
    rows, numbers = [], []
    with reading(file):
        reader = csv.reader(body, delimiter=delimiter)
        for row in reader:
            if any(entry.strip() for entry in row):
                rows.append(row)
                numbers.append(start + reader.line_num)
    for row, number in zip(rows, numbers, strict=True):
        if len(row) != len(rows[0]):
            raise InputError(
                f"{file}: line {number} has {len(row)} entries between {delimiter!r}: must have {len(rows[0])}, as the first"
            )
    decimal = _decimal(rows, delimiter)
    header = bool(rows) and not any(_number(entry, decimal) is not None for entry in rows[0])
    if not rows[header:]:
        raise InputError(f"{file}: not readable (holds no row of numbers)")
    names = rows[0] if header else [str(i + 1) for i in range(len(rows[0]))]
    _check_unique(file, names)
    return Text(
        names, [list(column) for column in zip(*rows[header:], strict=True)], header, delimiter, decimal, preamble
    )


def _decimal(rows: list[list[str]], delimiter: str) -> str:
    """Return a comma where entries hold numbers with one, and none with a point."""
    if delimiter == ",":
        return "."
    sample = [entry for row in rows[1:50] for entry in row]
    commas = sum(re.fullmatch(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*", entry) is not None for entry in sample)
    points = sum(re.fullmatch(r"\s*[-+]?\d*\.\d+([eE][-+]?\d+)?\s*", entry) is not None for entry in sample)
    return "," if commas and not points else "."


def _number(entry: str, decimal: str) -> float | None:
    try:
        return float(entry.replace(",", ".") if decimal == "," else entry)
    except ValueError:
        return None


def _read_parquet(file: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f"{file}: parquet files need pyarrow: pip install 'mmdflow[hub]'") from None
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    with reading(file):
        table = parquet.read_table(file)
    _check_unique(file, table.column_names)
    return table


def _check_unique(file: Path, names: Sequence[str]) -> None:
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{file}: has two columns {twice!r}: names must differ")


def _chosen(
    file: Path, table: Any, names: list[str], columns: Sequence[str] | None, ids: Sequence[str]
) -> tuple[list[str], list[np.ndarray[Any, np.dtype[Any]]]]:
    """Return the names of the coordinates, and their values."""
    for option, given in (("columns", columns or ()), ("id", ids)):
        for name in given:
            if name not in names:
                hint = _checks.near(name, names) or f"; there are {', '.join(names[:12])}"
                raise InputError(f"{file}: has no column {name!r}, which {option} names{hint}")
    both = next((name for name in columns or () if name in ids), None)
    if both is not None:
        raise InputError(f"{file}: columns and id both name {both!r}: a column is moved, or kept as it is")
    index = set() if isinstance(table, Text) else set((table.schema.pandas_metadata or {}).get("index_columns", []))
    candidates = columns or [name for name in names if name not in ids and name not in index and not _ID.search(name)]
    chosen, arrays = [], []
    for name in candidates:
        values, bad = column_values(table, names.index(name))
        if bad is not None and columns is None and bad[0] == len(values):
            continue  # text
        if bad is None and not np.isfinite(values).all():
            wrong = values[~np.isfinite(values)]
            bad = len(wrong), str(wrong[0])
        if bad is not None:
            raise InputError(
                f"{file}: column {name!r} has {bad[0]} entries that are no finite numbers, such as {bad[1]!r}: fill them, or "
                f"keep the column as it is (id)"
            )
        chosen.append(name)
        arrays.append(values)
    if not chosen:
        raise InputError(f"{file}: has no column of numbers to move; there are {', '.join(names[:12])}")
    return chosen, arrays


def column_values(table: Any, i: int) -> tuple[np.ndarray[Any, np.dtype[Any]], tuple[int, str] | None]:
    """Return a column as floating numbers; or how many of its entries are none, with the first."""
    if isinstance(table, Text):
        entries: Sequence[Any] = table.columns[i]
        read: Sequence[float | None] = [_number(entry, table.decimal) for entry in entries]
    else:
        column = table.column(i)
        array = column.to_numpy()
        if array.dtype.kind == "f":
            return array, None
        entries = column.to_pylist()
        read = [float(entry) if isinstance(entry, int | float) else None for entry in entries]
    values = np.array([np.nan if number is None else number for number in read])
    wrong = [i for i, number in enumerate(read) if number is None]
    return values, (len(wrong), str(entries[wrong[0]])) if wrong else None


def _write_text(rows: Rows, values: np.ndarray[Any, np.dtype[Any]], path: Path) -> None:
    table = rows.table
    if isinstance(table, Text):
        names, columns = table.names, [list(column) for column in table.columns]
        header, decimal, preamble = table.header, table.decimal, table.preamble
        same = split_entry(rows.path)[0].suffix.lower() == path.suffix.lower()
        delimiter = table.delimiter if same else "\t" if path.suffix.lower() == ".tsv" else ","
        decimal = "." if delimiter == "," else decimal
    else:
        names, header, decimal, preamble = list(table.column_names), True, ".", []
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        columns = [["" if entry is None else str(entry) for entry in column.to_pylist()] for column in table.columns]
    for j, name in enumerate(rows.moved):
        columns[names.index(name)] = [str(value).replace(".", decimal) for value in values[:, j]]
    text = io.StringIO()
    for line in preamble:
        text.write(line + "\n")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    if header:
        writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    with new_file(path) as aside:
        aside.write_text(text.getvalue(), encoding="utf-8")


def _write_parquet(rows: Rows, values: np.ndarray[Any, np.dtype[Any]], path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f"{path}: parquet files need pyarrow: pip install 'mmdflow[hub]'") from None
    table = rows.table
    if isinstance(table, Text):
        columns = zip(table.names, table.columns, strict=True)
        table = pyarrow.table({name: _typed(entries, table.decimal) for name, entries in columns})
    for j, name in enumerate(rows.moved):
        table = table.set_column(
            table.column_names.index(name), name, pyarrow.array(np.ascontiguousarray(values[:, j]))
        )
    with new_file(path) as aside:
        parquet.write_table(table, aside)


def _typed(entries: list[str], decimal: str) -> list[Any]:
    """Return entries as whole numbers or numbers, where all are; else as text."""
    kinds: list[Callable[[str], Any]] = [int, lambda entry: float(entry.replace(",", ".") if decimal == "," else entry)]
    for kind in kinds:
        try:
            return [kind(entry) for entry in entries]
        except ValueError:
            continue
    return list(entries)


def _write_entry(source: str, points: Tensor, path: Path) -> None:
    """Write an .npz file as it was, with one of its arrays replaced."""
    file, entry = split_entry(source)
    with np.load(file) as held:
        arrays = {name: held[name] for name in held.files}
    arrays[read_npz_entry(arrays, entry)] = points.detach().cpu().numpy()
    with new_file(path) as aside:
        np.savez_compressed(aside, **arrays)
