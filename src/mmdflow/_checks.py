"""Checks of input. Each raises `InputError` with one line: the field, the value, what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

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
        raise InputError(f"{field} = {value!r}: must be an integer >= {minimum}{most}")
    return number


def choice(field: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`; otherwise suggest the nearest."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"{field} = {value!r}: must be one of {', '.join(allowed)}{near(str(value), allowed)}")
    return value


def near(word: str, words: Iterable[str]) -> str:
    """Return a hint at the nearest of `words`, or nothing where none is near."""
    nearest = get_close_matches(word, list(words), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def points(field: str, value: Tensor, event: torch.Size | tuple[int, ...] | None = None) -> Tensor:
    """Return `value` if it is a finite floating tensor [n, *event] with n >= 1 (and of that event shape)."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise InputError(f"{field}: must be a torch.Tensor [n, *event], got {type(value).__name__}")
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


def weights(field: str, value: Tensor | None, points: Tensor) -> Tensor:
    """Return one weight a point, non-negative with sum 1; uniform for None, and scaled to sum 1 otherwise."""
    import torch

    n = len(points)
    if value is None:
        return points.new_full((n,), 1 / n)
    if not isinstance(value, torch.Tensor) or tuple(value.shape) != (n,):
        shape = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"{field} has shape {shape}: must be a tensor [{n}], one weight a point")
    value = value.detach().to(points)
    bad = ~(torch.isfinite(value) & (value >= 0))
    if bool(bad.any()) or not bool(value.sum() > 0):
        content = value[bad][0].item() if bool(bad.any()) else "a sum of 0"
        raise InputError(f"{field} holds {content}: all must be finite and >= 0, with a positive sum")
    return value / value.sum()


def alike(field: str, value: Tensor, target: Tensor) -> None:
    """Raise InputError if `value` is not of the target's dtype and on its device."""
    for name in ("dtype", "device"):
        if getattr(value, name) != getattr(target, name):
            raise InputError(
                f"{field} has {name} {getattr(value, name)}: must be {getattr(target, name)}, the target's"
            )


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
        raise InputError(f"{field} = {value!r}: must be {allowed}") from None
    if isinstance(value, bool | str) or not math.isfinite(number) or not good(number):
        raise InputError(f"{field} = {value!r}: must be {allowed}")
    return number
