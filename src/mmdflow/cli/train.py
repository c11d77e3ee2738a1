"""`train` and `recipes`: a recipe by name or file, its fields as options, a run that can be gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmdflow import _run_folder
from mmdflow.cli._options import Options, Parser, on_interrupt

if TYPE_CHECKING:
    from mmdflow.recipe import Recipe
    from mmdflow.recipe.data import ImageData
    from mmdflow.recipe.read import Source


_HELP = {"-h", "--help"}


def train_command(arguments: list[str]) -> None:
    """Train by a recipe into a new run folder, or go on with a run."""
    from mmdflow.errors import InputError

    if _peek(arguments).resume is not None:
        _resume(arguments)
        return
    options = _train_parser(arguments).parse(arguments)
    if options.recipe is None and not options.config:
        raise InputError("recipe is missing: `mmdflow train RECIPE --output=DIR`; `mmdflow recipes` lists them")
    if options.output is None:
        raise InputError("output is missing: give --output=DIR, the folder of the run")
    recipe = _recipe(options)

    from mmdflow.distributed import current
    from mmdflow.recipe.data import ImageData
    from mmdflow.runs import train

    dataset = train.build_check(recipe)
    ranks = current()
    if ranks.first:
        train.open_run(recipe, Path(options.output), overwrite=options.overwrite)
        if isinstance(dataset, ImageData):
            print(_image_line(dataset))
    ranks.wait()
    _run(recipe, Path(options.output))


def _image_line(dataset: ImageData) -> str:
    """Return what is trained on and what is held out, in a line."""
    shape = " x ".join(map(str, dataset.event_shape))
    line = f"images:  {len(dataset.train)} of {shape} to train on"
    if dataset.train.flip:
        line += ", mirror images counted"
    if dataset.held_out:
        taken = ", the same ones always (data.held_out)" if dataset.split else ""
        line += f"; {dataset.held_out} held out for `mmdflow evaluate`{taken}"
    if dataset.train.skipped:
        line += f"; {dataset.train.skipped} that are unreadable left out"
    if dataset.classes:
        line += f"; classes {', '.join(f'{i} {name}' for i, name in enumerate(dataset.classes))}"
    return line


def recipe_from(name: str | Path, options: Sequence[str] = ()) -> Recipe:
    """Return a recipe (a name or a YAML file), with options of `train` over its fields.

    Example:
        >>> recipe_from("dmmd-digits", ["--training.max_steps=7"]).training.max_steps
        7
    """
    arguments = [str(name), *options]
    return _recipe(_train_parser(arguments).parse(arguments))


def _recipe(options: Options) -> Recipe:
    """Return the recipe of the command line: of its files, and of the fields among its options."""
    from mmdflow.recipe.read import Source
    from mmdflow.runs.read import recipe_of, recipe_source

    return recipe_of(*map(recipe_source, _recipes(options)), Source(options.fields))


def _resume(arguments: list[str]) -> None:
    """Go on with the run that --resume names, by its own recipe, or make it longer."""
    from mmdflow.errors import InputError
    from mmdflow.runs import train
    from mmdflow.runs.read import read_recipe

    parser = Parser(
        "train",
        "Go on with an interrupted run, by its own recipe, or with a finished one for more steps.",
        unknown="must be left out with --resume, which takes --training.max_steps alone; a run keeps its recipe",
    )
    parser.add_argument("--resume", required=True, help="folder of the run")
    parser.add_argument("--training.max_steps", type=int, help="of all steps, those that were taken counted")
    options = parser.parse(arguments)
    folder, max_steps = Path(options.resume), options["training.max_steps"]
    file = folder / _run_folder.RECIPE
    if not file.is_file():
        raise InputError(f"resume = {folder}: holds no run ({file.name} is missing)")
    if max_steps is None:
        _run(read_recipe(file), folder)
        return
    recipe, done = train.lengthen(folder, max_steps)
    rate, share = recipe.training.step_size, 1 - done / max_steps
    print(
        f"longer:  from step {done} to {max_steps}; the step size goes on as in a run of {max_steps} steps, at "
        f"{rate * share:.3g} of {rate:g}, and falls to 0 by the end"
    )
    _run(recipe, folder)


def _peek(arguments: list[str]) -> Options:
    """Return the options that do not depend on the recipe's method, the recipe among them."""
    from mmdflow.methods import all_methods

    parser = Parser("train", "", add_help=False)
    _add_options(parser)
    parser.add_words(method.recipe_class() for method in all_methods().values())
    return parser.peek(arguments)


def _recipes(options: Options) -> list[str]:
    """Return the recipes of the command line, names and files; later ones go over earlier ones."""
    return [name for name in (options.recipe, *options.config) if name is not None]


def _train_parser(arguments: list[str]) -> Parser:
    """Return the parser for the recipe among the arguments: its method's fields are options, its values their defaults."""
    from mmdflow.recipe.read import read_settings
    from mmdflow.runs.read import recipe_class, recipe_source

    sources: list[Source] = [recipe_source(name) for name in _recipes(_peek(arguments))]
    kind = recipe_class(*sources)
    parser = Parser(
        "train",
        "Train a model by a recipe (a name or a YAML file). Every field of it is an option. With RECIPE, --help shows the fields "
        "of its method and their values in it; else the fields of dmmd.",
        usage="mmdflow train RECIPE --output=DIR [--part.field=VALUE ...]\n"
        "       mmdflow train --resume DIR [--training.max_steps=N]",
    )
    _add_options(parser)
    parser.add_settings(kind, read_settings(kind, *sources) if sources and _HELP & {*arguments} else None)
    return parser


def _add_options(parser: Parser) -> None:
    parser.add_argument("recipe", nargs="?", help="a recipe's name or a YAML file")
    parser.add_argument("--config", action="append", default=[], help="a YAML file of fields, over those of RECIPE")
    parser.add_argument("-o", "--output", help="folder of the run: checkpoints, logs, samples, pipeline")
    parser.add_argument("--overwrite", action="store_true", help="lose the run that is in the output folder")
    parser.add_argument("--resume", help="folder of a run to go on with; takes --training.max_steps besides")


def _run(recipe: Recipe, folder: Path) -> None:
    """Train in a run folder, and say what to do next, or how to go on."""
    from mmdflow.runs import train

    def state() -> str:
        saved = folder / _run_folder.CHECKPOINTS / _run_folder.CHECKPOINT
        state = f"Saved in {saved}" if saved.exists() else "Nothing trained yet"
        return f"{state}; go on with: mmdflow train --resume {folder}"

    with on_interrupt(state):
        train.train(recipe, folder)
    print(f"trained: {folder / _run_folder.PIPELINE}")
    print(f"next:    mmdflow sample {folder} -n 64 -o grid.png")
    print(f"         mmdflow evaluate {folder}")


def recipes_command(arguments: list[str]) -> None:
    """List the recipes and the shipped models."""
    Parser("recipes", "List the recipes and shipped models.").parse(arguments)

    from mmdflow._files import read_json, shipped_models
    from mmdflow.methods import recipe_names
    from mmdflow.runs.read import recipe_source

    print("recipes (mmdflow train NAME --output=DIR):")
    width = max(map(len, recipe_names()))
    for name in recipe_names():
        print(f"  {name:<{width}} {recipe_source(name).fields['description']}")
    print("shipped models (mmdflow sample NAME -o grid.png):")
    for name, folder in shipped_models().items():
        made = read_json(folder / "config.json")["provenance"]
        print(f"  {name:<{width}} {made['steps']} steps in {made['train_seconds']:.0f} s on {made['device']}")
