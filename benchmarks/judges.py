"""What the judges of a data set see: distances of damaged held-out images, over that of the images as they are.

python benchmarks/judges.py [--data digits] [--num_samples 359] [--output results/judges.json]

The damages: every image mixed with its four neighbours, a tenth of each; noise of deviation 0.2; the brightness of everything but
the background times 0.8; one class left out. A judge that settings are not chosen by is of use where it sees what the others see.
"""

import argparse
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdflow._files import commit, write_json
from mmdflow.data import load
from mmdflow.evaluation.data_judges import KINDS
from mmdflow.evaluation.distance import open_judge

CLASS = 3


def blurred(x: Tensor, share: float) -> Tensor:
    """Return images mixed with their four neighbours, a share of each."""
    kernel = torch.tensor([[0.0, share, 0.0], [share, 1 - 4 * share, share], [0.0, share, 0.0]]).view(1, 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel)


def main() -> None:
    """Measure, print a Markdown table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--num_samples", type=int, default=359)
    parser.add_argument("--output", type=Path, default=Path("results/judges.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load(options.data)
    x, labels = data.test[: options.num_samples], data.test_labels[: options.num_samples]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    damages = {
        "blur": blurred(x, 0.1),
        "noise": x + 0.2 * noise,
        "fainter": 0.8 * (x + 1) - 1,
        "a class missing": x[labels != CLASS],
    }
    rows = {}
    print(f"| `--features` | held-out | {' | '.join(damages)} |\n|{'---|' * (len(damages) + 2)}")
    for name in KINDS:
        judge = open_judge(options.data, name)
        held_out = judge(x)
        ratios = {damage: judge(images) / held_out for damage, images in damages.items()}
        rows[name] = {"judge": judge.name, "held_out": held_out, "ratios": ratios}
        print(f"| `{name}` | {held_out:.3g} | {' | '.join(f'{ratio:.3g}' for ratio in ratios.values())} |", flush=True)
    result = {
        "command": f"python benchmarks/judges.py --data {options.data} --num_samples {options.num_samples}",
        "commit": commit(),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "data": options.data,
        "num_samples": len(x),
        "rows": rows,
    }
    write_json(options.output, result)


if __name__ == "__main__":
    main()
