#!/usr/bin/env bash
# Optimal pairs of a batch for flow matching (torchcfm): a third of the batch is not in them, and torch's seed does not fix them.
#
# Minibatch optimal transport couples n events of noise with n of the data. For equal weights an optimal plan is a permutation.
#
# Natural guess: OTPlanSampler("exact").sample_plan(x0, x1) returns x0 and x1 paired by it, each event once, and the same pairs
# whenever they are asked for.
# What happens: n pairs are drawn from the plan with replacement. About 1 - 1/e = 63 percent of the noise and of the data are
# among them, some of it three times or more. The draws are NumPy's, of its global state: torch.manual_seed has no say, so a run
# that is seeded by torch is not repeated. sample_plan(..., replace=False) returns every event once.
#
# Seen with torchcfm 1.0.7, POT 0.9.7.post1, torch 2.13.0. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'torch==2.13.0' 'numpy==2.3.5' 'scipy==1.17.1' \
    'POT==0.9.7.post1'
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q --no-deps 'torchcfm==1.0.7'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import math
import sys

import numpy as np
import torch
from torchcfm.optimal_transport import OTPlanSampler

SIZE = 512
generator = torch.Generator().manual_seed(0)
noise = torch.randn(SIZE, 2, generator=generator)
data = torch.randn(SIZE, 2, generator=generator) + 2
sampler = OTPlanSampler("exact")


def distinct(events):
    return len(torch.unique(events, dim=0))


def share_in_pairs(**options):
    counts = [distinct(side) for _ in range(20) for side in sampler.sample_plan(noise, data, **options)]
    return sum(counts) / len(counts) / SIZE


def twice(seed):
    pairs = []
    for _ in range(2):
        seed(3)
        pairs.append(sampler.sample_plan(noise, data)[0])
    return torch.equal(*pairs)


plan = sampler.get_map(noise, data)
print(f"entries of the plan above 0: {int((plan > 0).sum())} of {plan.size}, at most {int((plan > 0).sum(0).max())} a column")
drawn, whole = share_in_pairs(), share_in_pairs(replace=False)
print(f"share of the events in the pairs, mean of 20 draws: {drawn:.3f}; 1 - 1/e = {1 - 1 / math.e:.3f}")
print(f"the same without replacement: {whole:.3f}")
by_torch, by_numpy = twice(torch.manual_seed), twice(np.random.seed)
print(f"same pairs after the same seed: torch.manual_seed {by_torch}, numpy.random.seed {by_numpy}")
permutation = int((plan > 0).sum()) == SIZE
sys.exit(0 if permutation and abs(drawn - (1 - 1 / math.e)) < 0.02 and whole == 1 and not by_torch and by_numpy else 1)
PY
