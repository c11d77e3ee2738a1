"""`train` and `recipes`: a recipe by name or file, its fields as options, a run that can be gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdflow.cli._options import fill, new_parser, parse

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def train_command(arguments: list[str]) -> None:
    """Train by a recipe into a new run folder, or go on with a run."""
    from mmdflow.errors import InputError

    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        _resume(arguments)
        return
    file, rest = _recipe_file(arguments)
    parser = _train_parser(_system(file))
    options = parse(parser, rest if file is None else [f"--config={file}", *rest])  # the command line's over the file's
    if options.recipe is not None:
        raise InputError(f"recipe = {options.recipe!r}: a second one; must be one")
    if not options.config:
        raise InputError("recipe is missing: `mmdflow train RECIPE --output=DIR`; `mmdflow recipes` lists them")
    if options.output is None:
        raise InputError("output is missing: give --output=DIR, the folder of the run")
    recipe, folder = _filled(parser, options), Path(options.output)

    from mmdflow.runs import train

    train.build_check(recipe)
    train.open_run(recipe, folder, overwrite="--overwrite" in arguments)  # not from a YAML file
    _run(recipe, folder)


def _resume(arguments: list[str]) -> None:
    from mmdflow.errors import InputError

    parser = new_parser("train", "Go on with an interrupted run, by its own recipe.")
    parser.add_argument("--resume", type=str, required=True, help="folder of the run")
    folder = Path(parse(parser, arguments).resume)
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"resume = {folder}: holds no run (recipe.yaml is missing)")
    _run(recipe_from(folder / "recipe.yaml"), folder)


_FLAGS = ("--overwrite", "--help")  # the options of `train` that take no value


def _recipe_file(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Return the file of the recipe among the arguments of `train`, None where none is named, and the other arguments."""
    from mmdflow.methods import recipe_path

    found = None
    for i, argument in enumerate(arguments):
        before = arguments[i - 1] if i else ""
        is_value = "=" not in before and (before == "-o" or before.startswith("--")) and before not in _FLAGS
        if not is_value and not argument.startswith("-"):
            return recipe_path(argument), [*arguments[:i], *arguments[i + 1 :]]
        if is_value and before == "--config":
            found = found or (argument, [*arguments[: i - 1], *arguments[i + 1 :]])
        elif argument.startswith("--config="):
            found = found or (argument.removeprefix("--config="), [*arguments[:i], *arguments[i + 1 :]])
    return (None, arguments) if found is None else (recipe_path(found[0]), found[1])


def _system(file: Path | None) -> str:
    """Return the system that a recipe's file names; dmmd where it names none, or is no YAML, of which the parser complains."""
    import yaml

    from mmdflow.methods import get_method
    from mmdflow.methods.registry import DEFAULT

    if file is None:
        return DEFAULT
    try:
        fields = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return DEFAULT
    name = fields.get("system", DEFAULT) if isinstance(fields, dict) else DEFAULT
    return get_method(name).name


def _train_parser(system: str = "dmmd") -> ArgumentParser:
    from mmdflow.methods import get_method

    what = "Train a model by a recipe (a name or a YAML file); every field of it is an option. "
    parser = new_parser(
        "train", what + f"The fields are those of {system}; with RECIPE, --help shows those of its system."
    )
    parser.add_argument("recipe", type=str, nargs="?", help="a recipe's name or a YAML file")
    parser.add_argument("--config", action="config", help="a YAML file of fields, as RECIPE")
    parser.add_argument("-o", "--output", type=str, help="folder of the run: checkpoints, logs, samples, pipeline")
    parser.add_argument("--overwrite", action="store_true", help="lose the run that is in the output folder")
    parser.add_class_arguments(get_method(system).recipe_class())
    return parser


def recipe_from(file: Path, options: Sequence[str] = ()) -> Any:
    """Return the recipe of a file, with options of `train` over its fields."""
    parser = _train_parser(_system(file))
    return _filled(parser, parse(parser, [f"--config={file}", *options]))


def _filled(parser: ArgumentParser, options: Namespace) -> Any:
    from mmdflow.methods import get_method

    return fill(get_method(options.system).recipe_class(), parser, options)


def _run(recipe: Any, folder: Path) -> None:
    from mmdflow.runs import train

    resume = f"go on with: mmdflow train --resume {folder}"
    try:
        train.train(recipe, folder)
    except KeyboardInterrupt:
        saved = folder / "checkpoints" / "last.ckpt"
        state = f"Saved in {saved}" if saved.exists() else "Nothing trained yet"
        raise KeyboardInterrupt(f"{state}; {resume}") from None
    print(f"trained: {folder / 'pipeline'}")
    print(f"next:    mmdflow sample {folder} -n 64 -o grid.png")
    print(f"         mmdflow evaluate {folder}")


def recipes_command(arguments: list[str]) -> None:
    """List the recipes and the shipped models."""
    parse(new_parser("recipes", "List the recipes and shipped models."), arguments)

    import yaml

    from mmdflow._files import read_json, shipped_models
    from mmdflow.methods import recipe_names, recipe_path

    print("recipes (mmdflow train NAME --output=DIR):")
    width = max(map(len, recipe_names()))
    for name in recipe_names():
        print(f"  {name:<{width}} {yaml.safe_load(recipe_path(name).read_text())['description']}")
    print("shipped models (mmdflow sample NAME -o grid.png):")
    for name, folder in shipped_models().items():
        made = read_json(folder / "config.json")["provenance"]
        print(f"  {name:<{width}} {made['steps']} steps in {made['train_seconds']:.0f} s on {made['device']}")
