"""mmdflow against its peers: the same work in the same process, in turns, with an error beside every time.

python benchmarks/run.py [--only sums,sliced,...] [--scale full|small] [--repeats 7] [--seconds 60] [--threads 1]
    [--output results]

Writes bench-SUITE.json to the output folder for every suite: sums, plain, sliced, drift, scaling, latency. The peers are
in benchmarks/requirements.txt; those that are not installed are left out. tools/speed_page.py makes a page of the reports.
"""

import argparse
import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

SUITES = ("sums", "plain", "sliced", "drift", "scaling", "latency")


def suites(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SUITES:
            raise argparse.ArgumentTypeError(f"{name!r}: must be among {', '.join(SUITES)}")
    return names


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of at least 1")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=suites, default=list(SUITES), help="suites, with commas")
    parser.add_argument("--scale", choices=("full", "small"), default="full", help="small: to see that everything runs")
    parser.add_argument("--repeats", type=positive, default=7, help="timed calls of each, after one that is not timed")
    parser.add_argument(
        "--seconds", type=positive, default=60, help="fewer repeats, but 3, where they would last longer"
    )
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # KeOps and torch read it once
    os.environ["PYKEOPS_VERBOSE"] = os.environ["KEOPS_VERBOSE"] = "0"
    os.environ["KEOPS_CACHE_FOLDER"] = folder = tempfile.mkdtemp()  # an empty one: first calls compile
    atexit.register(shutil.rmtree, folder)  # KeOps, which is imported later, writes to it before that

    import torch

    from mmdflow._files import make_folder, write_json
    from mmdflow.errors import InputError

    try:
        make_folder(options.output)
    except InputError as error:
        parser.error(str(error))
    torch.set_num_threads(options.threads)
    run = {"command": " ".join(["python", *sys.argv]), "scale": options.scale, "load_before": os.getloadavg()[0]}
    for name in options.only:
        report = importlib.import_module(name).report(options)
        path = options.output / f"bench-{name}.json"
        write_json(path, run | report)
        print(f"written: {path}\n", flush=True)


if __name__ == "__main__":
    main()
