#!/usr/bin/env bash
# ignite's MaximumMeanDiscrepancy of events far from the origin: it depends on where the origin is, and leaves its range.
#
# pytorch-ignite has the MMD under a Gaussian kernel as a metric, batch by batch. Coordinates in metres, times in seconds and
# prices lie far from 0, with a spread that is small beside that.
#
# Natural guess: a Gaussian kernel sees differences alone, so that a shift of both samples changes nothing but rounding; and since
# 0 < k <= 1, the root of an unbiased MMD^2 is at most sqrt(2).
# What happens: squared distances are taken as |x|^2 + |y|^2 - 2 <x, y> in the events' own precision and are not kept at 0 or
# above. In float32, with events 10 000 times as far from 0 as they are spread, distances below 0 give kernel values above 1, and
# an "MMD" in the hundred thousands. In float64, of events whose mean is taken off, or by differences it is right.
#
# Seen with pytorch-ignite 0.5.5, torch 2.13.0 (CPU). Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'torch==2.13.0' 'pytorch-ignite==0.5.5' 'numpy==2.1.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
from ignite.metrics import MaximumMeanDiscrepancy

draws = torch.Generator().manual_seed(0)
x = torch.randn(500, 3, generator=draws, dtype=torch.float64)
y = torch.randn(500, 3, generator=draws, dtype=torch.float64) + 0.2


def mmd(x, y):
    metric = MaximumMeanDiscrepancy(var=1.0)
    metric.update((x, y))
    return metric.compute()


def by_differences(x, y):
    def mean(a, b, without):
        k = torch.exp(-torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square() / 2)
        return (k.sum() - without) / (len(a) * (len(b) - (without > 0)))

    return (mean(x, x, len(x)) + mean(y, y, len(y)) - 2 * mean(x, y, 0)).clamp_min(0).sqrt().item()


found = {}
print(f"{'shift':>8} {'ignite, float32':>18} {'means off':>12} {'ignite, float64':>16} {'float32, by differences':>24}")
for shift in (0, 100, 10_000):
    near, far = (x + shift).float(), (y + shift).float()
    mean = torch.cat([near, far]).mean(0)
    found[shift] = mmd(near, far), mmd(near - mean, far - mean), mmd(x + shift, y + shift), by_differences(near, far)
    print(f"{shift:>8} {found[shift][0]:>18.6g} {found[shift][1]:>12.6g} {found[shift][2]:>16.6g} {found[shift][3]:>24.6g}")
right = found[0][2]
others = all(abs(value - right) < 0.02 * right for row in found.values() for value in row[1:])
near = all(abs(found[shift][0] - right) < 0.02 * right for shift in (0, 100))
out = found[10_000][0] > 2**0.5
sys.exit(0 if others and near and out else 1)
PY
