"""What precision and memory format cost a training step of an image recipe on this machine's CPU: choose a recipe's by it.

python benchmarks/precision.py [RECIPE] [--repeats 21] [--output results/bench-precision.json]

One thread; forward, backward and optimiser, in turns; medians of the process's own time.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
from measure import interleaved, provenance

from mmdflow._bfloat16 import LIMIT, spare_amx
from mmdflow.cli.train import recipe_from
from mmdflow.methods import recipe_path
from mmdflow.recipe.data import load_data
from mmdflow.runs.train import build_loss


def step(loss, events, precision):
    optimiser = torch.optim.AdamW(loss.parameters(), 1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)

    def call():
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            total = loss(events, generator).total
        total.backward()
        optimiser.step()

    return call


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="dmmd-mnist")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--output", default="results/bench-precision.json")
    options = parser.parse_args()
    spare_amx()
    torch.set_num_threads(1)
    recipe = recipe_from(recipe_path(options.recipe), [])
    data = load_data(recipe.data)
    events = data.train[torch.arange(recipe.batch_size)]
    calls = {}
    for precision in ("bfloat16", "float32"):
        for layout in (torch.contiguous_format, torch.channels_last):
            loss = build_loss(recipe, data).to(memory_format=layout)
            calls[f"{precision}, {str(layout).removeprefix('torch.')}"] = step(loss, events, precision)
    times = interleaved(calls, options.repeats, 60.0, time.process_time)
    for name, found in times.items():
        print(f"{name:<24} {found['ms']:8.1f} ms")
    report = {"command": f"python benchmarks/precision.py {options.recipe}", **provenance()}
    report |= {LIMIT: os.environ.get(LIMIT), "batch": len(events), "rows": times}
    Path(options.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
