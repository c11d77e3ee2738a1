#!/usr/bin/env bash
# Sinkhorn drift without self terms: one outlier throws the particles that stand nearest to it.
#
# Sinkhorn drifts (arXiv 2603.12366, 2605.11755) move particles by T_qp(x) - T_qq(x), the difference of two barycentric maps of
# entropic transport: to the data, and to the particles themselves. Drifting by a softmax (arXiv 2602.04770) leaves a particle out
# of its own neighbours by masking the diagonal.
#
# Natural guess: the diagonal of the self-transport can be masked as well. In the softmax form the others hardly see an outlier,
# since the kernel between them is tiny.
# What happens: the plan must keep both marginals. With its own entry masked, the outlier's mass has to come from other
# particles, however small the kernel. So the barycentre T_qq of its neighbours lies at the outlier's distance, and their drift
# grows in proportion to it, away from the outlier. Without the mask the outlier carries its own mass, and nobody else moves.
#
# Seen with POT 0.9.7.post1, numpy 2.3.5, scipy 1.16.3. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'POT==0.9.7.post1' 'numpy==2.3.5' 'scipy==1.16.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import ot

rng = np.random.default_rng(0)
cloud = rng.normal(size=(20, 2))
weights = np.full(21, 1 / 21)


def longest_step(distance, masked):
    """How far the self-transport carries any particle of the cloud, with an outlier at a distance."""
    x = np.vstack([cloud, [[distance, 0.0]]])
    cost = ot.dist(x, x, metric="euclidean")
    if masked:
        np.fill_diagonal(cost, 1e6)
    plan = ot.sinkhorn(weights, weights, cost, reg=0.5, method="sinkhorn_log", numItermax=20_000)
    moved = (plan @ x) / plan.sum(1, keepdims=True) - x
    return np.linalg.norm(moved[:-1], axis=1).max()


rows = {masked: [longest_step(r, masked) for r in (10.0, 100.0, 1000.0)] for masked in (False, True)}
for masked, steps in rows.items():
    name = "without self terms" if masked else "with self terms"
    print(f"{name:<19} outlier at 10, 100, 1000: longest step in the cloud " + ", ".join(f"{s:.3g}" for s in steps))
grows = rows[True][2] > 5 * rows[True][1] > 25 * 1.0
bounded = max(rows[False]) < 5
sys.exit(0 if grows and bounded else 1)
PY
