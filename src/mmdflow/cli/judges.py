"""`judges`: the judges of a data set, trained and cached."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from mmdflow.cli._options import Parser, check_free


def judges_command(arguments: list[str]) -> None:
    """Train and cache the judges of a data set; print their names, accuracies and distances of held-out data."""
    parser = Parser(
        "judges", "Train and cache the judges of a data set; say what they are, and what held-out data have."
    )
    parser.add_argument("--data", type=str, default="digits", help="a data set's name")
    parser.add_argument("-n", "--num_samples", type=int, help="held-out images judged; by default all that there are")
    parser.add_argument("-o", "--output", type=str, help="a JSON file of the same")
    parser.add_overwrite()
    options = parser.parse(arguments)

    from mmdflow._files import make_folder, write_json
    from mmdflow.evaluation.distance import own_judges

    check_free(options, options.output)
    if options.output is not None:
        make_folder(Path(options.output).parent)
    result = own_judges(options.data, options.num_samples)
    print(f"{result.data}: {result.num_samples} held-out images against {result.num_train} training images")
    print(f"{'--features':<12} {'role':<12} {'accuracy':>8} {'held-out':>10}  judge")
    for row in result.judges:
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.4f}"
        print(f"{row.features:<12} {row.role:<12} {accuracy:>8} {row.held_out:>10.4g}  {row.name}")
    for features, lack in result.lacking.items():
        print(f"{features:<12} {'-':<12} {'-':>8} {'-':>10}  {lack}")
    if options.output is not None:
        write_json(Path(options.output), asdict(result))
        print(f"written: {options.output}")
