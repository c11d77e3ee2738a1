#!/usr/bin/env bash
# Averages of a network's weights (ema-pytorch): update_every, which is to save compute, makes another average of it.
#
# Diffusion models are sampled with an average of their weights: exponential, by beta; or along the power profile of Karras et al.
# (arXiv 2312.02696), by its relative width sigma_rel, from which any other width can be made after the training. update_every is
# documented as how often to update, "to save on compute": 10 by default, 100 for the power profile, in its example 10.
#
# Natural guess: an average over every tenth state is nearly the one over all, since the decay is then that of ten steps. beta =
# 0.99 looks back 100 steps, gamma = power = 1 is the documented simple average, and sigma_rel = 0.28 is a profile of that width.
# What happens: the decay of one step is taken at every tenth. beta = 0.99 looks back 1000 steps. The simple average and the power
# profiles keep a share of the first, untrained state that falls as a small power of the time: below, after 2000 steps, it weighs
# 56 percent in the simple average, 52 percent at sigma_rel = 0.28, and 96 percent there at the default of 100. Widths made
# afterwards assume the right profile and are as far off. With update_every = 1 all of them are what was asked for.
#
# The network here is one vector, at step t the unit vector t: its average is the list of all weights.
#
# Seen with ema-pytorch 0.8.3, torch 2.13.0. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'ema-pytorch==0.8.3' 'torch==2.13.0' 'numpy==2.3.5'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
from ema_pytorch import EMA, KarrasEMA, PostHocEMA

STEPS = 2000
times = torch.arange(1, STEPS + 1, dtype=torch.float64)


class Steps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.at = torch.nn.Parameter(torch.zeros(STEPS, dtype=torch.float64))


def weights(make):
    network = Steps()
    average = make(network)
    for step in range(STEPS):
        with torch.no_grad():
            network.at.zero_()[step] = 1
        average.update()
    if isinstance(average, PostHocEMA):
        average = average.synthesize_ema_model(sigma_rel=0.15)
    return average.ema_model.at.detach()


def kinds(every):
    plain = {"update_after_step": 0, "update_every": every}
    stored = {"checkpoint_every_num_steps": 200, "checkpoint_folder": f"every{every}", "checkpoint_dtype": torch.float64}
    return {
        "beta 0.99, no warm-up": lambda m: EMA(m, beta=0.99, power=1e9, **plain),
        "simple average": lambda m: EMA(m, beta=1.0 - 1e-12, inv_gamma=1.0, power=1.0, **plain),
        "sigma_rel 0.05": lambda m: KarrasEMA(m, sigma_rel=0.05, update_every=every),
        "sigma_rel 0.28": lambda m: KarrasEMA(m, sigma_rel=0.28, update_every=every),
        "sigma_rel 0.15, afterwards": lambda m: PostHocEMA(m, sigma_rels=(0.05, 0.28), update_every=every, **stored),
    }


found = {}
print(f"{'average over 2000 steps':<27} {'update_every':>12} {'first weight':>13} {'mean age, steps':>16} {'width / 2000':>13}")
for every in (1, 10, 100):
    for name, make in kinds(every).items():
        w = weights(make)
        mean = float(w @ times)
        found[name, every] = float(w[0]), STEPS - mean, float((w @ (times - mean) ** 2).clamp_min(0).sqrt()) / STEPS
        first, age, width = found[name, every]
        print(f"{name:<27} {every:>12} {first:>13.3f} {age:>16.0f} {width:>13.3f}")
        assert abs(float(w.sum()) - 1) < 1e-3

widths = {"simple average": 12**-0.5, "sigma_rel 0.05": 0.05, "sigma_rel 0.28": 0.28, "sigma_rel 0.15, afterwards": 0.15}
checks = [abs(found[name, 1][2] - width) < 0.002 and found[name, 1][0] < 0.01 for name, width in widths.items()]
checks += [abs(found["beta 0.99, no warm-up", 1][1] - 99) < 2, found["beta 0.99, no warm-up", 10][1] > 800]
checks += [found["simple average", 10][0] > 0.5, found["sigma_rel 0.28", 10][0] > 0.5, found["sigma_rel 0.28", 100][0] > 0.9]
checks += [found["sigma_rel 0.05", 10][2] > 4 * 0.05, found["sigma_rel 0.15, afterwards", 10][2] > 2 * 0.15]
sys.exit(0 if all(checks) else 1)
PY
