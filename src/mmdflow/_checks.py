"""Checks of input. Each raises `InputError` with one line: the field, the value, what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from mmdflow import _arrays
from mmdflow.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmdflow.types import ScalarOrSchedule


def positive(field: str, value: float) -> float:
    """Return `value` if it is a finite number above 0."""
    return _number(field, value, lambda v: v > 0, "a finite number > 0")


def non_negative(field: str, value: float) -> float:
    """Return `value` if it is a finite number of at least 0."""
    return _number(field, value, lambda v: v >= 0, "a finite number >= 0")


def interval(field: str, value: float, low: float, high: float, brackets: str = "[]") -> float:
    """Return `value` if it lies between `low` and `high`; `brackets` says which ends are included."""
    above = operator.ge if brackets[0] == "[" else operator.gt
    below = operator.le if brackets[1] == "]" else operator.lt
    allowed = f"a number in {brackets[0]}{low:g}, {high:g}{brackets[1]}"
    return _number(field, value, lambda v: above(v, low) and below(v, high), allowed)


def count(field: str, value: int, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum` that fits into 63 bits."""
    try:
        number = operator.index(value)
    except TypeError:
        number = minimum - 1
    if isinstance(value, bool) or not minimum <= number < 2**63:
        most = " and < 2^63" if number >= 2**63 else ""
        raise InputError(f"{field} = {shown(value)}: must be an integer >= {minimum}{most}")
    return number


def even(field: str, value: int) -> int:
    """Return `value` if it is an even integer of at least 2."""
    if count(field, value) % 2:
        raise InputError(f"{field} = {value}: must be even, 2 or more")
    return value


def choice(field: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`; otherwise suggest the nearest."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"{field} = {shown(value)}: must be one of {', '.join(allowed)}{near(str(value), allowed)}")
    return value


def shown(value: object) -> str:
    """Return a value on one line of at most 80 characters; an array by its shape."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__.lower()} {list(shape)}"
    return " ".join(repr(value).split())[:80]


def near(word: str, words: Iterable[str]) -> str:
    """Return a hint at the nearest of `words`, or nothing where none is near."""
    nearest = get_close_matches(word, list(words), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def points(field: str, value: Any, event: torch.Size | tuple[int, ...] | None = None) -> Tensor:
    """Return an array of any kind as a tensor, if it is finite and floating, [n, *event], n >= 1 (and of that event shape)."""
    import torch

    value = _arrays.tensor(field, value)
    shape = tuple(value.shape)
    if value.ndim < 1 or 0 in shape:
        raise InputError(f"{field} has shape {list(shape)}: must be [n, *event] with n >= 1 and no empty dimension")
    if not value.is_floating_point():
        raise InputError(f"{field} has dtype {value.dtype}: must be a floating dtype (call .float())")
    if event is not None and shape[1:] != tuple(event):
        raise InputError(f"{field} has event shape {list(shape[1:])}: must be {list(event)}, the target's")
    if not all_finite(value):
        count = int((~torch.isfinite(value)).sum())
        raise InputError(f"{field} holds {count} NaN or infinite entries: all must be finite")
    return value


def samples(
    first: str, x: Any, second: str, y: Any, event: torch.Size | tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """Return two samples of one event shape as tensors of one dtype, the wider one, and on one device; else raise InputError."""
    import torch

    made_y = points(second, y, event)
    made_x = points(first, x, made_y.shape[1:])
    if not isinstance(x, torch.Tensor):
        made_x = made_x.to(made_y.device)
    elif not isinstance(y, torch.Tensor):
        made_y = made_y.to(made_x.device)
    if made_x.device != made_y.device:
        raise InputError(f"{first} is on {made_x.device} and {second} on {made_y.device}: must be on one device")
    dtype = torch.promote_types(made_x.dtype, made_y.dtype)
    return made_x.to(dtype), made_y.to(dtype)


def all_finite(x: Tensor) -> bool:
    """Whether no entry is NaN or infinite; in one pass and no memory, since a sum of such entries is never finite again."""
    import torch

    x = x.detach()
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())  # finite sums may overflow


def images(field: str, value: Tensor, event: tuple[int, ...]) -> Tensor:
    """Return `value` if it is a batch of images of that event shape, in [-1, 1]."""
    low, high = (float(v) for v in value.aminmax())
    if tuple(value.shape[1:]) != event or not -1 <= low <= high <= 1:
        raise InputError(
            f"{field} has event shape {list(value.shape[1:])}, range [{low:g}, {high:g}]: the recipe needs {list(event)}, in "
            f"[-1, 1]"
        )
    return value


def weights(field: str, value: Any, points: Tensor) -> Tensor:
    """Return one weight a point, non-negative with sum 1; uniform for None, and scaled to sum 1 otherwise."""
    import torch

    n = len(points)
    if value is None:
        return points.new_full((n,), 1 / n)
    value = _arrays.tensor(field, value)
    if tuple(value.shape) != (n,):
        raise InputError(f"{field} has shape {list(value.shape)}: must be a tensor [{n}], one weight a point")
    value = value.detach().to(points.device, torch.float64)  # beyond the points' own range, too
    bad = ~(torch.isfinite(value) & (value >= 0))
    if bool(bad.any()) or not bool((value > 0).any()):
        content = value[bad][0].item() if bool(bad.any()) else "a sum of 0"
        raise InputError(f"{field} holds {content}: all must be finite and >= 0, with a positive sum")
    value = value / value.max()  # whose sum is in range
    return (value / value.sum()).to(points)


def alike(field: str, value: Tensor, target: Tensor) -> Tensor:
    """Return `value` in the target's dtype if it is on the target's device; else raise InputError."""
    if value.device != target.device:
        raise InputError(f"{field} has device {value.device}: must be {target.device}, the target's")
    return value.to(target.dtype)


def placed(field: str, value: Any, event: tuple[int, ...], like: Tensor) -> Tensor:
    """Return an array of any kind as points like `like`: in its dtype, and on its device, where a tensor must be already."""
    import torch

    made = points(field, value, event)
    return alike(field, made if isinstance(value, torch.Tensor) else made.to(like.device), like)


def finite(field: str, value: float) -> float:
    """Return `value` if it is a finite number."""
    return _number(field, value, math.isfinite, "a finite number")


def step_sizes(field: str, value: Any, num_levels: int) -> None:
    """Raise InputError unless `value` is "distance", a positive number, or one for each noise level."""
    if isinstance(value, list | tuple):
        for number in value:
            positive(field, number)
        if len(value) != num_levels:
            raise InputError(f"{field} has {len(value)} entries: must be a number, or one a level, {num_levels} here")
    elif isinstance(value, str):
        choice(field, value, ("distance",))
    else:
        positive(field, value)


def schedule(
    field: str, value: ScalarOrSchedule, check: Callable[[str, float], float] = finite
) -> Callable[[int], float]:
    """Turn a number or a callable of the step into a callable of the step whose values are checked."""
    if not callable(value):
        number = check(field, value)
        return lambda step: number
    return lambda step: check(f"{field}({step})", value(step))


def _number(field: str, value: float, good: Callable[[float], bool], allowed: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{field} = {shown(value)}: must be {allowed}") from None
    if isinstance(value, bool | str) or not math.isfinite(number) or not good(number):
        raise InputError(f"{field} = {shown(value)}: must be {allowed}")
    return number
