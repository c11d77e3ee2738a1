"""Points from files: tables and tensors of samples, pictures taken as densities in the plane."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmdflow import _checks
from mmdflow._files import make_folder, new_file, reading
from mmdflow.data.pixels import upright
from mmdflow.data.point_tables import read_h5ad, read_parquet
from mmdflow.errors import InputError
from mmdflow.types import ArrayLike

#: Endings of files of points that are read and written.
POINT_FILES = (".npy", ".npz", ".csv", ".pt")
#: Endings of files whose columns have names, or could have.
TABLES = (".csv", ".tsv", ".parquet")
#: Endings of files of points that are read.
READ_POINT_FILES = (*POINT_FILES, ".parquet", ".h5ad", ".tsv")


def is_points_file(path: str | Path) -> bool:
    """Whether a path is, by its ending, one that `read_points` reads."""
    return split_entry(path)[0].suffix.lower() in READ_POINT_FILES


def read_points(path: str | Path) -> Float[Tensor, "n *event"]:
    """Read samples [n, *event] from a file.

    A .npy, .npz (its key `samples`, its only array, or NAME as FILE.npz#NAME), .csv, .tsv or .parquet (a row each), .pt, or
    .h5ad file (a cell each: X, or the entry NAME of obsm as FILE.h5ad#NAME; with `anndata` installed). One-dimensional arrays
    become [n, 1]. A .csv may begin with one line of column names, and have any of , ; | and tabs between its entries. A .pt file
    is read without running code. Floating dtypes stay, others become float32.

    Raises:
        InputError: for a file that is missing, of another kind, damaged, or without finite samples.
        ImportError: for a .parquet or .h5ad file without the package that reads it; says what to install.
    """
    path, entry = split_entry(path)
    if path.suffix.lower() not in READ_POINT_FILES:
        raise InputError(f"{path}: must end in {', '.join(READ_POINT_FILES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with reading(path):
        value = _ENTRIES[path.suffix.lower()](path, entry) if path.suffix.lower() in _ENTRIES else _read(path)
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "fiub":
                raise ValueError(f"dtype {value.dtype}: must be real numbers")
            kept = value.dtype.kind == "f" and value.dtype.itemsize <= 8
            value = value.astype(
                value.dtype.newbyteorder("=") if kept else np.float64 if value.dtype.kind == "f" else np.float32
            )
        points = torch.as_tensor(value)
        if points.is_complex() or points.layout != torch.strided:
            raise ValueError(f"a {points.dtype} tensor of layout {points.layout}: must be real and dense")
        points = points if points.is_floating_point() else points.float()
    return _checks.points(str(path), points[:, None] if points.ndim == 1 else points)


def save_points(points: Float[Tensor, "n *event"] | ArrayLike, path: str | Path) -> None:
    """Save samples as .npy, .npz (key `samples`), .csv (a row each, events flattened) or .pt, whole or not at all."""
    path = check_points_file(path)
    points = _checks.points("points", points)
    array = points.detach().cpu().numpy()
    with new_file(path) as aside:
        if path.suffix.lower() == ".npy":
            np.save(aside, array)
        elif path.suffix.lower() == ".npz":
            np.savez_compressed(aside, samples=array)
        elif path.suffix.lower() == ".csv":
            np.savetxt(aside, array.reshape(len(array), -1), delimiter=",", fmt="%.9g")
        else:
            torch.save(points.detach().cpu(), aside)


def check_points_file(path: str | Path, source: str | Path | None = None) -> Path:
    """Return the path if points can be saved there; else raise InputError, before the work that makes them.

    Args:
        path: to save at.
        source: the file that the points came from: tables and .h5ad files come back as such.
    """
    path = Path(path)
    kind = "" if source is None else split_entry(source)[0].suffix.lower()
    others = {".h5ad": (".h5ad",), **dict.fromkeys(TABLES, (".tsv", ".parquet"))}
    endings = (*POINT_FILES, *others.get(kind, ()))
    if path.suffix.lower() not in endings:
        raise InputError(f"{path}: must end in {', '.join(endings)}")
    if path.suffix.lower() == ".parquet" and not any(map(find_spec, ("pyarrow", "fastparquet"))):
        raise ImportError(f"{path}: parquet files need pyarrow: pip install 'mmdflow[hub]'")
    make_folder(path.parent)
    return path


def split_entry(path: str | Path) -> tuple[Path, str | None]:
    """Return FILE.h5ad#NAME or FILE.npz#NAME as its file and its entry; any other path as it is."""
    file, _, entry = str(path).rpartition("#")
    return (Path(file), entry) if Path(file).suffix.lower() in _ENTRIES else (Path(path), None)


def density_points(
    path: str | Path, n: int, generator: torch.Generator | None = None, *, invert: bool = False
) -> Float[Tensor, "n 2"]:
    """Draw points from a picture whose darkness is a density in the plane; its longer side is [-2, 2].

    Args:
        path: the picture, of any kind that Pillow reads; transparent is white.
        n: how many.
        generator: of the draws.
        invert: take lightness for the density.

    Raises:
        InputError: for a file that is missing or no picture, or one that is white all over.
    """
    _checks.count("n", n)
    with reading(path, "not a readable picture"), Image.open(io.BytesIO(Path(path).read_bytes())) as picture:
        if picture.mode == "F":
            raise InputError(f"{path}: holds floating numbers: must be a picture of whole ones (8 or 16 bits)")
        shown = upright(picture, 1)
    shown.thumbnail((512, 512))
    grey = np.asarray(shown, np.float32) / 255
    density = torch.from_numpy(grey if invert else 1 - grey)
    if not bool(density.sum() > 0):
        raise InputError(f"{path}: holds no {'light' if invert else 'dark'} pixel to draw points from")
    height, width = density.shape
    pixel = torch.multinomial(density.flatten(), n, replacement=True, generator=generator)
    corner = torch.stack([pixel % width, pixel // width], 1) + torch.rand(n, 2, generator=generator)
    centred = corner - torch.tensor([width / 2, height / 2])
    return centred * torch.tensor([1.0, -1.0]) * (4 / max(height, width))


def _npz(path: Path, entry: str | None) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    with np.load(path) as arrays:
        return arrays[read_npz_entry(arrays, entry)]


def read_npz_entry(arrays: Iterable[str], entry: str | None) -> str:
    """Return the name of the array of points in an .npz file: the given one, `samples`, or the only one."""
    names = list(arrays)
    if entry is not None:
        if entry not in names:
            raise ValueError(f"no array {entry}: must be one of {', '.join(names) or 'none'}")
        return entry
    if "samples" not in names and len(names) != 1:
        raise ValueError(
            f"holds {', '.join(names) or 'nothing'}: must hold `samples`, or one array; FILE.npz#NAME takes one"
        )
    return "samples" if "samples" in names else names[0]


def _text(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    from mmdflow.data.rows import column_values, read_text_table

    table = read_text_table(path)
    columns = [column_values(table, i) for i in range(len(table.names))]
    for name, (_, bad) in zip(table.names, columns, strict=True):
        if bad is not None:
            raise ValueError(f"column {name!r} has {bad[0]} entries that are no numbers, such as {bad[1]!r}")
    return np.column_stack([values for values, _ in columns])


def _pt(path: Path) -> Tensor:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("must hold a plain tensor, as torch.save(tensor, path) writes it") from None
    if not isinstance(value, Tensor):
        raise ValueError(f"holds a {type(value).__name__}: must hold a tensor")
    return value.detach()


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": np.load,
    ".csv": _text,
    ".tsv": _text,
    ".pt": _pt,
    ".parquet": read_parquet,
}
#: Files whose entries have names.
_ENTRIES: dict[str, Callable[[Path, str | None], Any]] = {".npz": _npz, ".h5ad": read_h5ad}


def _read(path: Path) -> Any:
    return _READERS[path.suffix.lower()](path)
