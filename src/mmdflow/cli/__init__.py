"""The command line. Each command imports what it needs when it runs, so that --help is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from mmdflow import __version__, _checks
from mmdflow.cli._ranks import joined, process
from mmdflow.cli._signals import terminable
from mmdflow.cli.demo import demo_command
from mmdflow.cli.evaluate import evaluate_command
from mmdflow.cli.flow import flow_command
from mmdflow.cli.judges import judges_command
from mmdflow.cli.sample import sample_command
from mmdflow.cli.studies import compare_command, reproduce_command
from mmdflow.cli.train import recipes_command, train_command

USAGE = """\
usage: mmdflow COMMAND [OPTIONS]

Gradient flows of the Maximum Mean Discrepancy.

commands:
  train RECIPE --output=DIR    train a model; RECIPE is a name (see `mmdflow recipes`) or a YAML file
  train --resume DIR           go on with an interrupted run; --training.max_steps=N makes it longer
  flow --target T -o FILE      move particles onto a toy set, a file of points or a picture
  sample MODEL -o FILE         draw samples from a shipped model, a run or a pipeline folder
  evaluate MODEL               judge a model's samples against its data: a table and JSON
  evaluate IMAGES --reference R   judge images of any program: Frechet, Inception, kernel distances, ...
  judges --data D              a data set's own judges: trained, cached, and what they say of held-out data
  compare --data D             train every method for the same time: a table, a grid a method
  reproduce NAME               make a figure of the papers again, and say whether its claim was seen
  demo                         the live page in a browser: particle flows, and the digits model
  recipes                      the recipes and shipped models that there are

`mmdflow COMMAND --help` shows the options of a command.

options:
  -h, --help                   show this text
  --version                    show the version
"""

_INPUT, _FAILURE, _INTERRUPTED, _TERMINATED = 2, 1, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 2 bad input, 1 failure, 130 interrupted, 143 stopped by SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else _INPUT
    if arguments[0] == "--version":
        print(f"mmdflow {__version__}")
        return 0
    from mmdflow.errors import DivergedError, InputError, RankLostError, Terminated

    try:
        command = COMMANDS[_checks.choice("command", arguments[0], COMMANDS)]
        with terminable(), joined(arguments[0]):
            command(arguments[1:])
    except InputError as error:
        return _fail(error, _INPUT)
    except (DivergedError, RankLostError, ImportError, MemoryError) as error:
        return _fail(error, _FAILURE)
    except Terminated as error:
        print(f"mmdflow: stopped by SIGTERM. {error}".rstrip(), file=sys.stderr)
        return _TERMINATED
    except KeyboardInterrupt as error:
        print(f"\nmmdflow: interrupted. {error}".rstrip(), file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILURE
    except Exception as error:  # the last resort: one line for the user, the whole story under MMDFLOW_DEBUG
        if os.environ.get("MMDFLOW_DEBUG"):
            raise
        return _fail(f"{type(error).__name__}: {error} (MMDFLOW_DEBUG=1 shows where)", _FAILURE)
    return 0


def _fail(error: BaseException | str, code: int) -> int:
    message = " ".join(str(error).split())[:600] or type(error).__name__
    print(f"mmdflow: error: {process()}{message}", file=sys.stderr)
    return code


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train_command,
    "flow": flow_command,
    "sample": sample_command,
    "evaluate": evaluate_command,
    "judges": judges_command,
    "reproduce": reproduce_command,
    "compare": compare_command,
    "demo": demo_command,
    "recipes": recipes_command,
}
