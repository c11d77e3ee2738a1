"""What DMMD costs: a training step against a DDPM step of the same network, an NFE against a plain forward, images a second.

python benchmarks/dmmd_cost.py [--output results/bench-dmmd.json] [--repeats 7]

On one thread (or a GPU where there is one). A step is forward, backward and optimiser on the same number of events; all calls of
a network are timed in turns, and medians are reported.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from measure import COMMIT, interleaved

from mmdflow.features import ConvFeatures, MLPFeatures, UNetFeatures
from mmdflow.methods.denoising import DenoisingLoss
from mmdflow.methods.dmmd import DMMDLoss, LossSettings
from mmdflow.noise import NoiseConditionalKernel, schedule

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOCK = (
    time.perf_counter if DEVICE == "cuda" else time.process_time
)  # one thread's own time: other programs do not count
NETWORKS = {
    "MLP of the digits recipe, 8x8": (MLPFeatures, (1, 8, 8), {"width": 256, "depth": 2}, 128),
    "coarse convolutions, 28x28": (
        ConvFeatures,
        (1, 28, 28),
        {"channels": [96], "blocks": 3, "patch": 4},
        32,
    ),
    "convolutions of the MNIST recipes, 28x28": (
        ConvFeatures,
        (1, 28, 28),
        {"channels": [32, 64], "blocks": 2, "patch": 2},
        32,
    ),
    "U-Net with attention, 32x32": (UNetFeatures, (3, 32, 32), {"channels": [32, 64], "attention": [False, True]}, 16),
}
STEPS = {
    "paired": ("paired", "float32", False),
    "shared": ("shared", "float32", False),
    "shared, checkpointed": ("shared", "float32", True),
    "shared, bfloat16": ("shared", "bfloat16", False),
}


def step(loss, events, precision):
    optimiser = torch.optim.AdamW(loss.parameters(), 1e-4, fused=True)
    generator = torch.Generator(DEVICE).manual_seed(0)

    def run():
        optimiser.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bfloat16"):
            total = loss(events, generator).total
        total.backward()
        optimiser.step()

    return run


def nfe(network, x, t):
    network.requires_grad_(False)
    weights = torch.ones(len(x), network.num_features, device=DEVICE)

    def run():
        z = x.clone().requires_grad_()
        torch.autograd.grad(network(z, t), z, weights)

    return run


def forward(network, x, t):
    def run():
        with torch.no_grad():
            network(x, t)

    return run


def measure(name, repeats):
    make, event, settings, batch = NETWORKS[name]

    def network(features, head="squared_residual"):
        torch.manual_seed(0)
        return make(event, features, head, **settings).to(DEVICE)

    x, t = torch.randn(batch, *event, device=DEVICE), torch.rand(batch, device=DEVICE)
    calls = {}
    for precision in ("float32", "bfloat16"):
        calls[f"DDPM, {precision}"] = step(DenoisingLoss(network(1), schedule("ddpm")), x, precision)
    for row, (pairing, precision, checkpointed) in STEPS.items():
        features = network(128, "mixed")
        if checkpointed:
            features.enable_checkpointing()
        kernel = NoiseConditionalKernel(features)
        options = LossSettings(form="path", mmd_weight=0.1, num_levels=4, pairing=pairing)
        calls[row] = step(DMMDLoss(kernel, schedule("linear"), second_moment=1.0, settings=options), x, precision)
    calls["forward"] = forward(network(128, "mixed"), x, t)
    calls["NFE"] = nfe(network(128, "mixed"), x, t)
    times = {row: found["ms"] for row, found in interleaved(calls, repeats, 30.0, CLOCK).items()}
    ratios = {
        row: times[row] / times["forward" if row == "NFE" else f"DDPM, {STEPS[row][1]}"] for row in (*STEPS, "NFE")
    }
    rate = 1000 * batch / times["NFE"] / 52
    return {"network": name, "batch": batch, "ms": times, "ratio": ratios, "images_a_second_at_52_nfe": rate}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="results/bench-dmmd.json")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in NETWORKS:
        row = measure(name, options.repeats)
        rows.append(row)
        print(f"\n{name}, batch {row['batch']}")
        for call, ms in row["ms"].items():
            ratio = f"{row['ratio'][call]:6.2f}x" if call in row["ratio"] else ""
            print(f"  {call:<38} {ms:9.1f} ms {ratio}", flush=True)
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{platform.machine()}, 1 thread"
    report = {
        "command": "python benchmarks/dmmd_cost.py",
        "commit": COMMIT,
        "device": device,
        "torch": torch.__version__,
    }
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    Path(options.output).write_text(json.dumps({**report, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
