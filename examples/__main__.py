"""Run an example with arguments of its `main`: python examples NAME --num_points 50."""

import argparse
import inspect
import runpy
from pathlib import Path


def run() -> None:
    here = Path(__file__).parent
    names = sorted(p.stem for p in here.glob("*.py") if p.stem != "__main__")
    parser = argparse.ArgumentParser(prog="python examples", description=__doc__)
    parser.add_argument("name", choices=names)
    name = parser.parse_known_args()[0].name
    main = runpy.run_path(str(here / f"{name}.py"))["main"]
    for argument in inspect.signature(main).parameters.values():
        parser.add_argument(f"--{argument.name}", type=type(argument.default), default=argument.default, help="")
    options = vars(parser.parse_args())
    del options["name"]
    main(**options)


if __name__ == "__main__":
    run()
