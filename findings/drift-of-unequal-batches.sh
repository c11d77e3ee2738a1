#!/usr/bin/env bash
# Batch drifts with other numbers of data than of generated events: weights that sum to 1 make the drift biased.
#
# The batch form of drifting (arXiv 2602.04770) pulls a generated event to data and pushes it off other generated events. Its
# weights are square roots of a softmax over rows times one over columns, over both joined; every event counts as one.
#
# Natural guess: where the numbers differ, both clouds are to be averages, as in any estimate of two expectations: each event of n
# gets the weight 1 / n before the softmax. Else the larger cloud outweighs the smaller one.
# What happens: the other way round. Counted one by one, both clouds of one distribution can be exchanged event for event, so that
# the mean drift is exactly 0 for any two numbers: a trained generator stands still. With weights 1 / n it is not: with more data
# than generated events it points away from the centre, with fewer towards it, by many standard errors. A quotient of averages
# (the mean-shift form) has such a bias as well.
#
# Seen with numpy 2.3.5. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'numpy==2.3.5'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np

rng = np.random.default_rng(0)
TAU, REPEATS, DIM, AT = 0.3, 1500, 3, 8


def softmax(logits, axis):
    e = np.exp(logits - logits.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def batch_form(x, pushing, data, averages):
    """The batch form at x; the events that push are other ones than x."""
    both = np.concatenate([pushing, data])
    logits = -np.linalg.norm(x[:, None] - both[None], axis=-1) / TAU
    if averages:
        logits = logits - np.log(np.repeat([len(pushing), len(data)], [len(pushing), len(data)]))
    a = np.sqrt(softmax(logits, 1) * softmax(logits, 0))
    push, pull = a[:, : len(pushing)], a[:, len(pushing) :]
    return (pull * push.sum(1, keepdims=True)) @ data - (push * pull.sum(1, keepdims=True)) @ pushing


def mean_shift(x, pushing, data):
    pull, push = (softmax(-np.linalg.norm(x[:, None] - y[None], axis=-1) / TAU, 1) @ y for y in (data, pushing))
    return pull - push


forms = {
    "counted": lambda *clouds: batch_form(*clouds, averages=False),
    "averages": lambda *clouds: batch_form(*clouds, averages=True),
    "mean-shift": mean_shift,
}
print("mean over events of V . x / |x|^2, of clouds of one normal distribution")
print(f"{'form':<12} {'pushing':>7} {'data':>5} {'mean':>9} {'standard error':>15}")
seen = {}
for form, drift in forms.items():
    for pushing, data in ((8, 8), (64, 64), (8, 64), (8, 512), (64, 8)):
        outwards = []
        for _ in range(REPEATS):
            x, others, samples = (rng.normal(size=(n, DIM)) for n in (AT, pushing, data))
            outwards.append((drift(x, others, samples) * x).sum() / (x * x).sum())
        mean, error = np.mean(outwards), np.std(outwards) / REPEATS**0.5
        seen[form, pushing, data] = mean / error
        print(f"{form:<12} {pushing:7d} {data:5d} {mean:9.5f} {error:15.5f}")
still = all(abs(z) < 4 for (form, n, m), z in seen.items() if form == "counted" or n == m)
away = all(seen[form, 8, m] > 6 for form in ("averages", "mean-shift") for m in (64, 512))
towards = all(seen[form, 64, 8] < -6 for form in ("averages", "mean-shift"))
sys.exit(0 if still and away and towards else 1)
PY
