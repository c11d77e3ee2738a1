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
FULL = {"penalty_points": "path", "mmd_weight": 0.1}
SEMI = {"penalty_points": "noisy", "mmd_weight": 0.0}
STEPS = {
    "full gradient, paired": ("full", {**FULL, "pairing": "paired"}, "float32", False),
    "full gradient, shared": ("full", {**FULL, "pairing": "shared"}, "float32", False),
    "full gradient, shared, checkpointed": ("full", {**FULL, "pairing": "shared"}, "float32", True),
    "full gradient, shared, bfloat16": ("full", {**FULL, "pairing": "shared"}, "bfloat16", False),
    "semi-gradient, shared": ("semi", {**SEMI, "pairing": "shared"}, "float32", False),
    "semi-gradient, shared, bfloat16": ("semi", {**SEMI, "pairing": "shared"}, "bfloat16", False),
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
            network.outputs(x, t)

    return run


def measure(name, repeats):
    make, event, settings, batch = NETWORKS[name]

    def network(features, gradient="full"):
        torch.manual_seed(0)
        return make(event, features, "squared_residual", gradient, **settings).to(DEVICE)

    x, t = torch.randn(batch, *event, device=DEVICE), torch.rand(batch, device=DEVICE)
    calls = {}
    for precision in ("float32", "bfloat16"):
        calls[f"DDPM, {precision}"] = step(DenoisingLoss(network(1), schedule("ddpm")), x, precision)
    for row, (gradient, loss, precision, checkpointed) in STEPS.items():
        features = network(4, gradient)
        if checkpointed:
            features.enable_checkpointing()
        kernel = NoiseConditionalKernel(features)
        options = LossSettings(unit_weight=0.0, displacement_weight=1.0, num_levels=4, **loss)
        calls[row] = step(DMMDLoss(kernel, schedule("linear"), second_moment=1.0, settings=options), x, precision)
    calls["forward"] = forward(network(4), x, t)
    calls["NFE, full gradient"] = nfe(network(4), x, t)
    calls["NFE, semi-gradient"] = nfe(network(4, "semi"), x, t)
    times = {row: found["ms"] for row, found in interleaved(calls, repeats, 30.0, CLOCK).items()}
    ratios = {
        row: times[row] / times["forward" if row.startswith("NFE") else f"DDPM, {STEPS[row][2]}"]
        for row in (*STEPS, "NFE, full gradient", "NFE, semi-gradient")
    }
    rates = {row: 1000 * batch / times[row] / 52 for row in ("NFE, full gradient", "NFE, semi-gradient")}
    return {"network": name, "batch": batch, "ms": times, "ratio": ratios, "images_a_second_at_52_nfe": rates}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
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
