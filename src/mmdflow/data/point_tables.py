"""Points from tables with a row each: parquet files and single-cell .h5ad files, through optional packages."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from mmdflow._files import new_file
from mmdflow.data.datasets import MAX_BYTES
from mmdflow.errors import InputError

#: Entry of `obsm` that what was X goes to.
MOVED = "X_moved"
Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


def read_parquet(path: Path) -> Array:
    """Return the columns of a parquet file, [n, columns], without those that pandas kept its index in.

    Raises:
        InputError: if a column holds no numbers; names it.
        ImportError: if neither pyarrow nor pandas with another engine is installed.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        return _read_by_pandas(path)
    table = parquet.read_table(path)
    index = (table.schema.pandas_metadata or {}).get("index_columns", [])
    columns = zip(table.column_names, table.columns, strict=True)
    return _stacked(path, ((name, column.to_numpy()) for name, column in columns if name not in index))


def _read_by_pandas(path: Path) -> Array:
    try:
        import pandas

        frame = pandas.read_parquet(path)
    except ImportError:
        raise ImportError(f"{path}: parquet files need pyarrow: pip install 'mmdflow[hub]'") from None
    return _stacked(path, ((name, column.to_numpy()) for name, column in frame.items()))


def _stacked(path: Path, columns: Iterable[tuple[Any, Array]]) -> Array:
    """Return columns of numbers as [n, columns]."""
    columns = list(columns)
    others = [str(name) for name, column in columns if column.dtype.kind not in "fiub"]
    if others:
        raise InputError(f"{path}: columns {', '.join(others)} hold no plain numbers: all columns must be numeric")
    if not columns:
        raise InputError(f"{path}: holds no column")
    return np.column_stack([column for _, column in columns])


def read_h5ad(path: Path, embedding: str | None) -> Array:
    """Return X of an .h5ad file, [cells, genes], dense; or an embedding of its cells, an entry of `obsm`, without reading X.

    Raises:
        InputError: if the file has no such entry, or X takes more than 4 GiB when dense.
        ImportError: if anndata is not installed.
    """
    try:
        import anndata
    except ImportError:
        raise ImportError(f"{path}: .h5ad files need anndata: pip install 'mmdflow[single-cell]'") from None
    cells = anndata.read_h5ad(path, backed="r")  # X stays on disk
    with closing(cells.file):
        entries = ", ".join(cells.obsm) or "none"
        if embedding is not None:
            if embedding not in cells.obsm:
                raise InputError(f"{path}#{embedding}: no such entry of obsm: must be one of {entries}")
            return _dense(cells.obsm[embedding])
        advice = f"take an entry of obsm as {path.name}#NAME (there are: {entries})"
        if "X" not in cells.file:
            raise InputError(f"{path}: holds no X; {advice}")
        held = cells.X
        needed = math.prod(held.shape) * held.dtype.itemsize
        if needed > MAX_BYTES:
            size = f"{needed / 2**30:.1f} GiB when dense: must be at most {MAX_BYTES / 2**30:g}"
            raise InputError(f"{path}: X, {list(held.shape)}, takes {size}; {advice}")
        return _dense(held[:])


def write_h5ad(source: Path, embedding: str | None, values: Array, path: Path) -> None:
    """Write a copy of an .h5ad file with an entry of `obsm` replaced, or X_moved added for what was X; all else stays.

    Raises:
        InputError: if the file has another number of cells.
        ImportError: if anndata is not installed.
    """
    try:
        import anndata
        import h5py
    except ImportError:
        raise ImportError(f"{path}: .h5ad files need anndata: pip install 'mmdflow[single-cell]'") from None
    write = getattr(anndata, "io", anndata.experimental).write_elem  # before 0.11 it is experimental
    with new_file(path) as aside:
        shutil.copyfile(source, aside)
        with h5py.File(aside, "r+") as file:
            obs = file["obs"]
            count = len(obs[obs.attrs["_index"]])
            if count != len(values):
                raise InputError(
                    f"{path}: {len(values)} rows for the {count} cells of {source}: must be all; leave num_particles out"
                )
            write(file.require_group("obsm"), embedding or MOVED, values)


def _dense(values: Any) -> Array:
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)
