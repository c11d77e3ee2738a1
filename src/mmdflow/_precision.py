"""Precision: `torch.autocast` changes nothing, and what is summed has digits and range enough.

Half precision comes in and goes out, but sums are taken in float32. Points of sizes like 1e-20 and 1e20, whose squares leave the
range of float32, are taken in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

#: Devices that have a setting of autocast of their own.
_DEVICES = ("cpu", "cuda", "mps", "xpu")
#: Sizes of points, and of kernels, whose squares and their quotients float32 holds.
USUAL = 1e-15, 1e15
_Function = TypeVar("_Function", bound=Callable[..., Any])


def widened(x: Tensor) -> Tensor:
    """Return x, in float32 where it is half precision: sums of 2^11 terms leave float16 no digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def precise(x: Tensor) -> Tensor:
    """Return x in float64, whose range holds the square of any float32; on the CPU from devices that have none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


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


def traced() -> bool:
    """Whether torch.compile or torch.func look at the operations, which must then be torch's own and may not look at values."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def usual(size: float) -> bool:
    """Whether a size is such that squares stay in the range of float32; 0 is."""
    return size == 0 or USUAL[0] <= size <= USUAL[1]


def leaves_range(*tensors: Tensor) -> bool:
    """Whether the largest entry of some float32 points is so small or large that their squares leave float32."""
    if traced():
        return False
    ends = [x.detach().aminmax() for x in tensors if x.dtype in (torch.float32, torch.bfloat16) and x.numel()]
    largest = max((max(-float(low), float(high)) for low, high in ends), default=0.0)
    return not usual(largest) and largest < torch.inf and all(x.device.type != "mps" for x in tensors)


def of_any_dtype(method: _Function) -> _Function:
    """Let a method of a kernel compute as outside autocast.

    If the kernel is a formula alone, it takes half precision in float32, and float64 where float32 has not the range.
    """
    widely = in_float32(method)

    @functools.wraps(method)
    def chosen(self: Any, *args: Any, **named: Any) -> Any:
        if not self.any_dtype:
            return method(self, *args, **named)
        points = [value for value in (*args, *named.values())[:2] if isinstance(value, Tensor)]
        if (self.extreme and points[0].dtype != torch.float64) or leaves_range(*points):
            wide = method(self, *map(_double, args), **{name: _double(value) for name, value in named.items()})
            return wide.to(points[0].dtype)
        return widely(self, *args, **named)

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


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else value


def _wide(value: Any) -> Any:
    return value.float() if _half(value) else value
