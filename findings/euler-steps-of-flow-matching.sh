#!/usr/bin/env bash
# Sampling a flow-matching model with diffusers' Euler scheduler: n evaluations of the network do the work of n - 1.
#
# Along the straight path x = (1 - s) x0 + s n a model is sampled by Euler steps from s = 1 to s = 0, and its error is stated by
# the number of evaluations.
#
# Natural guess: without a shift, set_timesteps(n) makes n equal steps of 1/n.
# What happens: the n levels are spread from 1 to the least level that a training on 1000 timesteps has, s = 0.001, and 0 is put
# behind them. So n - 1 steps go from 1 to 0.001, and the last evaluation makes a step of 0.001. The error is that of n - 1 equal
# steps. At 2 evaluations it is that of one. The same levels, given by hand as sigmas = [1, 1 - 1/n, ..., 1/n], have that of n.
# With a shift of 3 the least level is shifted twice, to 0.0089: set_timesteps(1000) does not give the 1000 levels back that the
# scheduler begins with.
#
# The velocity here is the exact one of Gaussian data, whose flow is known: for data of standard deviation 0.2 it ends at x(0) = 0.2 x(1).
#
# Seen with diffusers 0.42.1, torch 2.13.0. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'diffusers==0.42.1' 'torch==2.13.0' 'numpy==2.3.5'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

SPREAD = 0.2
start = torch.linspace(-2, 2, 401, dtype=torch.float64)


def velocity(x, s):
    variance = (1 - s) ** 2 * SPREAD**2 + s**2
    return x * (s - (1 - s) * SPREAD**2) / variance


def error(x):
    return float((x - SPREAD * start).abs().max())


def by_scheduler(count, **levels):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(count, **levels)
    x = start.clone()
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, float(t) / 1000), t, x).prev_sample
    return error(x), len(scheduler.timesteps)


def by_equal_steps(count):
    x = start.clone()
    for k in range(count):
        x = x - velocity(x, 1 - k / count) / count
    return error(x)


seen = True
print(f"{'evaluations':>11} {'scheduler':>10} {'n equal steps':>14} {'n - 1':>8} {'levels given':>13}")
for count in (2, 4, 8, 16):
    ours, evaluations = by_scheduler(count)
    given, _ = by_scheduler(count, sigmas=[1 - k / count for k in range(count)])
    n, fewer = by_equal_steps(count), by_equal_steps(count - 1)
    print(f"{evaluations:>11} {ours:>10.4f} {n:>14.4f} {fewer:>8.4f} {given:>13.4f}")
    seen &= evaluations == count and abs(ours - fewer) < 0.1 * abs(n - fewer) and abs(given - n) < 1e-5
shifted = FlowMatchEulerDiscreteScheduler(shift=3.0)
before = float(shifted.sigmas[-1])
shifted.set_timesteps(1000)
after = float(shifted.sigmas[-2])
print(f"least level of 1000 with a shift of 3: {before:.4f} at first, {after:.4f} after set_timesteps(1000)")
sys.exit(0 if seen and after > 2.9 * before else 1)
PY
