"""MODEL and the sampler's options, for the commands that draw samples."""

from __future__ import annotations

import math
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin

from mmdflow.cli._options import Options, Parser

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Options of `sample` alone; `source` gives the pipeline's `particles`, the others have the pipeline's names.
_CONDITIONS = ("source", "noise_source", "labels", "known", "mask", "monitor")


class Option(NamedTuple):
    """An option of the command line: its type and what it means."""

    type: Any
    text: str


@cache
def sampler_options() -> dict[str, Option]:
    """Return the settings of every method's sampler by name; which of them a model has, its `defaults` say."""
    from mmdflow._settings import fields_of
    from mmdflow.methods.registry import all_methods

    types: dict[str, list[Any]] = {}
    texts: dict[str, dict[str, list[str]]] = {}
    for method in all_methods().values():
        kind = method.settings_class()
        for field in [] if kind is None else fields_of(kind):
            unbounded = field.name in getattr(kind, "unbounded", ())
            types.setdefault(field.name, []).extend(_option_types(field.type, unbounded))
            texts.setdefault(field.name, {}).setdefault(field.text, []).append(method.name)
    return {name: Option(Union[tuple(types[name])], _joined(texts[name])) for name in types}  # noqa: UP007


def _option_types(kind: Any, unbounded: bool) -> Iterable[Any]:
    """Return the types of an option for a field: any word for a choice, since models differ in what they have.

    A word that may stand for a number is kept as it is.
    """
    parts = [
        part for part in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)) if part is not NoneType
    ]
    for part in parts:
        yield str if get_origin(part) is Literal and len(parts) == 1 else part
    if unbounded:
        yield Literal["inf"]  # a plain `inf` is a word to YAML


def _joined(texts: dict[str, list[str]]) -> str:
    """Return what an option means, by method where methods differ."""
    if len(texts) == 1:
        return next(iter(texts))
    return " | ".join(f"{', '.join(methods)}: {text.rstrip('.')}" for text, methods in texts.items())


def model_parser(command: str, description: str) -> Parser:
    """Return a parser with MODEL and the sampler's options, which default to the model's settings."""
    parser = Parser(command, description)
    images = "; or images: a folder of pictures, .npz, .npy or parquet" if command == "evaluate" else ""
    parser.add_argument("model", type=str, help=f"a shipped model's name, a run folder or a pipeline folder{images}")
    for name, option in sampler_options().items():
        parser.add_argument(f"--{name}", type=option.type, help=option.text)
    features = ": of the model, and of the features of --reference or --protocol" if command == "evaluate" else ""
    parser.add_argument("--device", type=str, default="cpu", help=f"cpu, cuda, ...{features}")
    return parser


def refuse_settings(options: Options, why: str) -> None:
    """Raise InputError if a sampler's setting is given where there is no model."""
    from mmdflow.errors import InputError

    for name in sampler_options():
        if options[name] is not None:
            raise InputError(f"{name} = {options[name]!r}: {why}")


def check_device(device: str) -> None:
    """Raise InputError if a device is not usable here."""
    import torch

    from mmdflow.errors import InputError

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device = {device!r}: not usable here ({str(error).splitlines()[0]})") from None


def load(options: Options) -> tuple[Any, dict[str, Any]]:
    """Return the pipeline that MODEL names, on its device, and the settings given for its sampler.

    Raises:
        InputError: if there is none, the device is not usable, or the pipeline's sampler has no such setting.
    """
    from mmdflow.errors import InputError
    from mmdflow.methods import load_pipeline

    check_device(options.device)
    pipeline = load_pipeline(options.model, options.device)
    names = sampler_options()
    accepted = _accepted(pipeline)
    settings = {}
    for name in (*names, *_CONDITIONS):
        value = options.get(name)
        if value is None or (name in _CONDITIONS and value is False):
            continue
        if ("particles" if name == "source" else name) not in accepted:
            available = ", ".join(other for other in names if other in accepted)
            raise InputError(f"{name} = {value!r}: the sampler of this model has no such setting; it has {available}")
        if name in names:
            settings[name] = math.inf if value == "inf" else value
    return pipeline, settings


def _accepted(pipeline: Any) -> set[str]:
    """Return what a pipeline takes in a call: the fields of its settings, and the arguments beside them."""
    import inspect

    from mmdflow._settings import fields_of

    fields = {field.name for field in fields_of(type(pipeline.defaults))}
    return fields | {*inspect.signature(type(pipeline).__call__).parameters}
