"""Precision: `torch.autocast` changes nothing, and half precision comes in and goes out, but is not what is summed in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

#: Devices that have a setting of autocast of their own.
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def widened(x: Tensor) -> Tensor:
    """Return x, in float32 where it is half precision: sums of 2^11 terms leave float16 no digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(function: _Function) -> _Function:
    """Let a function compute inside `torch.autocast` as outside.

    So is the gradient, where `backward` is called after the block, as torch asks for: its own formulas look at autocast.
    """

    @functools.wraps(function)
    def outside(*args: Any, **settings: Any) -> Any:
        lowered = [device for device in _DEVICES if torch.is_autocast_enabled(device)]
        if not lowered:
            return function(*args, **settings)
        with ExitStack() as block:
            for device in lowered:
                block.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **settings)

    return cast(_Function, outside)


def of_any_dtype(method: _Function) -> _Function:
    """Let a method of a kernel compute as outside autocast and, if the kernel is a formula alone, half precision in float32."""
    widely = in_float32(method)

    @functools.wraps(method)
    def chosen(self: Any, *args: Any, **named: Any) -> Any:
        return (widely if self.any_dtype else method)(self, *args, **named)

    return full_precision(cast(_Function, chosen))


def in_float32(function: _Function) -> _Function:
    """Let a function of tensors take those in half precision in float32, and return its result in the first one's dtype."""

    @functools.wraps(function)
    def widely(*args: Any, **named: Any) -> Any:
        if not any(map(_half, args)) and not any(map(_half, named.values())):
            return function(*args, **named)
        first = next(value for value in (*args, *named.values()) if isinstance(value, Tensor))
        wide = function(*(_wide(value) for value in args), **{name: _wide(value) for name, value in named.items()})
        return wide.to(first.dtype)

    return cast(_Function, widely)


def decorate(cls: type, names: frozenset[str], decorator: Callable[[Any], Any]) -> None:
    """Decorate the methods of those names that a class itself defines."""
    for name in names & vars(cls).keys():
        setattr(cls, name, decorator(vars(cls)[name]))


def _half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)


def _wide(value: Any) -> Any:
    return value.float() if _half(value) else value
