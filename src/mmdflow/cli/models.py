"""MODEL and the sampler's options, for the commands that draw samples."""

from __future__ import annotations

import math
from typing import Any, Literal

from mmdflow.cli._options import Options, Parser

#: A number or infinity, which YAML writes .inf.
_OR_INFINITY = float | Literal["inf"]
#: The settings of samplers; which of them a model has, its pipeline's `__call__` says.
SETTINGS: dict[str, tuple[Any, str]] = {
    "sampler": (
        str,
        "dmmd: exact (particles interact), approximate (each on its own), or by the paper's names: dmmd, a-dmmd, a-dmmd-a, "
        "a-dmmd-e, dmmd-e; ddpm: ancestral or ddim; flow-matching: euler or heun; mmd-gan: generator or flow",
    ),
    "num_levels": (int, "noise levels T: the steps from noise to data"),
    "num_steps": (int, "steps of the flow, where there are no noise levels"),
    "num_networks": (int, "networks of a chain that are applied"),
    "steps_per_level": (int, "flow steps a level"),
    "step_size": (
        float | list[float],
        "a constant step size, or [a, list] of one a level; else the distance schedule",
    ),
    "t_min": (float, "lowest noise level, in the trained range"),
    "t_max": (float, "highest noise level, in the trained range"),
    "momentum": (float, "momentum of the flow, in [0, 1)"),
    "integrator": (str, "euler, nesterov, heun or adams_bashforth"),
    "chunk_size": (int, "particles whose gradient is taken at once: less memory, the same samples"),
    "whitening": (
        _OR_INFINITY,
        "lambda of the regularised witness, inf for the plain one; needs a model trained with it",
    ),
    "step_scale": (float, "factor of the distance schedule"),
    "max_slope": (_OR_INFINITY, "bound on a particle's |grad f|, inf for none"),
    "guidance": (float, "weight of a class's flow over that of all data, with --labels"),
    "final_steps": (int, "denoising steps after the last level"),
    "final_sampler": (str, "flow of the final steps: exact or approximate"),
    "final_step_size": (float, "step size of the final steps"),
    "final_level": (float, "noise level of the final steps, in the trained range"),
}
#: Options of `sample` alone; `source` gives the pipeline's `particles`, the others have the pipeline's names.
_GIVEN = ("source", "noise_source", "labels", "known", "mask", "monitor")


def model_parser(command: str, description: str) -> Parser:
    """A parser with MODEL and the sampler's options, which default to the model's own."""
    parser = Parser(command, description)
    images = "; or images: a folder of pictures, .npz, .npy or parquet" if command == "evaluate" else ""
    parser.add_argument("model", type=str, help=f"a shipped model's name, a run folder or a pipeline folder{images}")
    for name, (kind, text) in SETTINGS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    features = ": of the model, and of the features of --reference or --protocol" if command == "evaluate" else ""
    parser.add_argument("--device", type=str, default="cpu", help=f"cpu, cuda, ...{features}")
    return parser


def refuse_settings(options: Options, why: str) -> None:
    """Raise InputError if a sampler's setting was asked for where there is no model."""
    from mmdflow.errors import InputError

    for name in SETTINGS:
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
    """Return the pipeline that MODEL names, on its device, and the sampler's settings that were asked for.

    Raises:
        InputError: if there is none, the device is not usable, or the pipeline's sampler has no such setting.
    """
    import inspect

    from mmdflow.errors import InputError
    from mmdflow.methods import load_pipeline

    check_device(options.device)
    pipeline = load_pipeline(options.model, options.device)
    taken = inspect.signature(type(pipeline).__call__).parameters
    given = {name: options.get(name) for name in (*SETTINGS, *_GIVEN)}
    asked = [name for name, value in given.items() if value is not None and value is not False]
    for name in asked:
        if ("particles" if name == "source" else name) not in taken:
            mine = ", ".join(own for own in SETTINGS if own in taken)
            raise InputError(
                f"{name} = {options[name]!r}: the sampler of this model has no such setting; it has {mine}"
            )
    how = {name: options[name] for name in asked if name in SETTINGS}
    return pipeline, {name: math.inf if value == "inf" else value for name, value in how.items()}
