"""Points from files: tables and tensors of samples, pictures taken as densities in the plane."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mmdflow import _checks
from mmdflow._files import make_folder, new_file
from mmdflow.errors import InputError

_BROKEN = (pickle.UnpicklingError, zipfile.BadZipFile)
#: Endings of files of points.
POINT_FILES = (".npy", ".npz", ".csv", ".pt")


def read_points(path: str | Path) -> Float[Tensor, "n *event"]:
    """Read samples [n, *event] from a .npy, .npz (its key `samples`, or its only array), .csv (a row each) or .pt file.

    One-dimensional arrays become [n, 1]. A .csv may begin with one line of column names. A .pt file is read without running
    code. Floating dtypes stay, others become float32.

    Raises:
        InputError: for a file that is missing, of another kind, damaged, or without finite samples.
    """
    path = _with_ending(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        value = _READERS[path.suffix.lower()](path)
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
    except (OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError, *_BROKEN) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: not readable ({reason})") from error
    return _checks.points(str(path), points[:, None] if points.ndim == 1 else points)


def save_points(points: Float[Tensor, "n *event"], path: str | Path) -> None:
    """Save samples as .npy, .npz (key `samples`), .csv (a row each, events flattened) or .pt, whole or not at all."""
    path = check_points_file(path)
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


def check_points_file(path: str | Path) -> Path:
    """Return the path if points can be saved there; else raise InputError, before the work that makes them."""
    path = _with_ending(path)
    make_folder(path.parent)
    return path


def _with_ending(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() not in POINT_FILES:
        raise InputError(f"{path}: must end in {', '.join(POINT_FILES)}")
    return path


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
    try:
        with Image.open(path) as picture:
            if picture.mode == "F":
                raise InputError(f"{path}: holds floating numbers: must be a picture of whole ones (8 or 16 bits)")
            picture.thumbnail((512, 512))
            rgba = picture.convert("RGBA")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: not a readable picture ({error})") from error
    ground = Image.new("RGBA", rgba.size, "white")
    grey = np.asarray(Image.alpha_composite(ground, rgba).convert("L"), np.float32) / 255
    density = torch.from_numpy(grey if invert else 1 - grey)
    if not bool(density.sum() > 0):
        raise InputError(f"{path}: holds no {'light' if invert else 'dark'} pixel to draw points from")
    height, width = density.shape
    pixel = torch.multinomial(density.flatten(), n, replacement=True, generator=generator)
    corner = torch.stack([pixel % width, pixel // width], 1) + torch.rand(n, 2, generator=generator)
    centred = corner - torch.tensor([width / 2, height / 2])
    return centred * torch.tensor([1.0, -1.0]) * (4 / max(height, width))


def _npz(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    with np.load(path) as arrays:
        names = list(arrays)
        if "samples" not in names and len(names) != 1:
            raise ValueError(f"holds {', '.join(names) or 'nothing'}: must hold `samples`, or one array")
        return arrays["samples" if "samples" in names else names[0]]


def _csv(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if lines and not any(_is_number(entry) for entry in lines[0].split(",")):
        lines = lines[1:]  # names of the columns
    if not any(line.strip() for line in lines):
        raise ValueError("holds no row of numbers")
    return np.loadtxt(lines, delimiter=",", ndmin=2)


def _is_number(entry: str) -> bool:
    try:
        float(entry)
    except ValueError:
        return False
    return True


def _pt(path: Path) -> Tensor:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("must hold a plain tensor, as torch.save(tensor, path) writes it") from None
    if not isinstance(value, Tensor):
        raise ValueError(f"holds a {type(value).__name__}: must hold a tensor")
    return value.detach()


_READERS: dict[str, Callable[[Path], Any]] = {".npy": np.load, ".npz": _npz, ".csv": _csv, ".pt": _pt}
