"""Arrays of any library become tensors where they come in, and go back as what they were. Nothing else converts arrays."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from mmdflow.errors import InputError, reason

if TYPE_CHECKING:
    from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])

KINDS = "a torch tensor, a NumPy array, a list of numbers, or an array with DLPack"


def tensor(field: str, value: Any, *, floating: bool = True) -> Tensor:
    """Return a tensor as it is, and a copy of any other array: NumPy, lists, tables with `__array__`, JAX, CuPy (DLPack).

    The copy matters: DLPack shares memory, and what is recorded of a flow must not change when its owner goes on.

    Args:
        field: what messages call it.
        value: the array.
        floating: whether numbers of other types, in what is no tensor, become float64, as NumPy's own arithmetic has it.

    Raises:
        InputError: for what is no array of numbers.

    Example:
        >>> tensor("x", [[1, 2], [3, 4]])
        tensor([[1., 2.],
                [3., 4.]], dtype=torch.float64)
    """
    import torch

    if isinstance(value, torch.Tensor):
        return _dense(field, value)
    if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        try:
            made: Tensor = torch.utils.dlpack.from_dlpack(value).clone()
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{field}: no tensor can be made of a {_name(value)} ({reason(error)})") from None
        return made.double() if floating and not made.is_floating_point() and not made.is_complex() else made
    if isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any()):
        count = int(np.ma.getmaskarray(value).sum())
        raise InputError(f"{field}: {count} entries are masked; fill them, or leave their rows out")
    return torch.from_numpy(_numbers(field, value, floating))


def back(*values: Any) -> Callable[[Tensor], Any]:
    """Return what turns a result into the kind of array that was given.

    Of several, a tensor decides, else the first that is not None. Arrays with DLPack go back to their library; lists and tables
    give NumPy arrays, and single numbers NumPy's.

    Example:
        >>> import torch
        >>> back([[1.0]])(torch.ones(2)), back(None)(torch.ones(2))
        (array([1., 1.], dtype=float32), tensor([1., 1.]))
    """
    import torch

    given = [value for value in values if value is not None]
    if not given or any(isinstance(value, torch.Tensor) for value in given):
        return lambda result: result
    from_dlpack = _from_dlpack(given[0])
    if from_dlpack is None:
        return lambda result: result.detach().cpu().numpy()[()]
    return lambda result: from_dlpack(result.detach())


def foreign(value: Any) -> bool:
    """Whether a value is an array, but no tensor; single numbers are none."""
    import torch

    if value is None or isinstance(value, torch.Tensor | np.generic):
        return False
    return isinstance(value, np.ndarray | list) or hasattr(value, "__dlpack__") or hasattr(value, "__array__")


def of_any_kind(function: _Function) -> _Function:
    """Let a function of tensors take arrays of any kind, and return its tensors in the kind of the first one.

    Where one of the arrays is no tensor, all floating ones are taken in the widest of their dtypes.

    Example:
        >>> @of_any_kind
        ... def double(x):
        ...     return 2 * x
        >>> double([1.0, 2.0])
        array([2., 4.])
    """
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def taken(*args: Any, **named: Any) -> Any:
        if not any(map(foreign, args)) and not any(map(foreign, named.values())):
            return function(*args, **named)
        given = {**dict(zip(names, args, strict=False)), **named}
        made = promoted({name: tensor(name, value) for name, value in given.items() if _array(value)})
        result = function(**{**given, **made})
        return result_as(back(*(given[name] for name in made)), result)

    return cast(_Function, taken)


def promoted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return floating tensors in the widest of their dtypes, and the others as they are."""
    import torch

    dtypes = [x.dtype for x in tensors.values() if x.is_floating_point()]
    widest = functools.reduce(torch.promote_types, dtypes) if dtypes else None
    return {name: x.to(widest) if x.is_floating_point() else x for name, x in tensors.items()}


def result_as(give_back: Callable[[Tensor], Any], result: Any) -> Any:
    """Return a result with its tensors given back: one, several, or none."""
    import torch

    if isinstance(result, torch.Tensor):
        return give_back(result)
    return tuple(result_as(give_back, part) for part in result) if type(result) is tuple else result


def _dense(field: str, value: Tensor) -> Tensor:
    """Return a tensor if it holds its numbers one after another, and has numbers at all."""
    import torch

    if value.is_meta:
        raise InputError(f"{field} is on the meta device, which holds no numbers: must be on another")
    if value.is_nested:
        raise InputError(f"{field} is a nested tensor: must be dense, events of one shape")
    if value.layout is not torch.strided:
        raise InputError(f"{field} has layout {value.layout}: must be dense (call .to_dense())")
    return value


def _array(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) or foreign(value)


def _from_dlpack(value: Any) -> Callable[[Any], Any] | None:
    """Return what makes an array of a value's own library from another's; None for NumPy, lists and tables."""
    if isinstance(value, np.ndarray | np.generic) or not hasattr(value, "__dlpack__"):
        return None
    if hasattr(value, "__array_namespace__"):
        library = value.__array_namespace__()
    else:
        library = sys.modules.get(type(value).__module__.partition(".")[0])
    made: Callable[[Any], Any] | None = getattr(library, "from_dlpack", None)
    return made


def _numbers(field: str, value: Any, floating: bool) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a copy as a NumPy array of numbers that torch knows."""
    try:
        array = np.array(value, order="C")  # results depend on values, not on how they lie in memory
    except (TypeError, ValueError) as error:
        ragged = "inhomogeneous" in str(error)
        what = "rows of different lengths" if ragged else reason(error)
        raise InputError(f"{field}: a {_name(value)} with {what}: must be {KINDS}") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{field}: must be {KINDS}, got a {_name(value)} of {_content(array)}")
    if array.dtype.kind == "f":
        return array.astype(np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("="))
    return array.astype(np.float64) if floating else array


def _name(value: Any) -> str:
    return type(value).__name__


def _content(array: np.ndarray[Any, np.dtype[Any]]) -> str:
    return {"U": "text", "S": "text", "O": "objects", "c": "complex numbers", "M": "dates", "m": "durations"}.get(
        array.dtype.kind, str(array.dtype)
    )
