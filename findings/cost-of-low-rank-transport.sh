#!/usr/bin/env bash
# POT's low-rank transport: the cost that it returns is in units of its own, and is far below the least possible one.
#
# ot.solve_sample(x, y, method="lowrank", rank=r) finds a plan of rank r between large clouds without an n x n matrix. It returns
# res.value_linear, the "Linear OT loss with the optimal OT plan", as all its methods do.
#
# Natural guess: for the squared distance it is <T, |x - y|^2>. A plan of low rank is no better than the best one, so it is at
# least W2^2, and the nearer the higher the rank. In centimetres in place of metres it is 10 000 times as large.
# What happens: before solving, the two factors of the cost matrix are divided by the roots of their largest entries, and the cost
# is never multiplied back. So it is the same number in all units in which the data are not small, and a seventh of W2^2 below at
# unit 1. It depends on where the origin is, for the factors hold |x|^2: with both clouds shifted by 2 it is a quarter of that.
# solve_sample has no option for this; lowrank_sinkhorn has rescale_cost=False. A reg is in the same hidden unit. The plan is a
# proper one, and its cost by hand is above W2^2.
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
n = 50
x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + 1

checks, found = [], {}
print("The last two: value_linear of lowrank_sinkhorn(rescale_cost=False), and its plan's cost by hand")
print(f"{'unit':>5} {'shift':>5} {'rank':>4} {'W2^2':>9} {'value_linear':>12} {'by hand':>10} {'margins off':>11}")
for unit, shift, rank in ((1, 0, 5), (1, 0, 10), (1, 0, 25), (10, 0, 10), (100, 0, 10), (1, 2, 10)):
    here, there = unit * (x + shift), unit * (y + shift)
    cost = ot.dist(here, there)
    exact = ot.solve_sample(here, there).value_linear
    res = ot.solve_sample(here, there, method="lowrank", rank=rank)
    plan = res.lazy_plan[:]
    by_hand, off = (plan * cost).sum(), n * max(abs(plan.sum(k) - 1 / n).max() for k in (0, 1))
    Q, R, g, log = ot.lowrank_sinkhorn(here, there, rank=rank, rescale_cost=False, log=True)
    plain = ((Q / g) @ R.T * cost).sum()
    found[unit, shift, rank] = res.value_linear
    print(f"{unit:>5} {shift:>5} {rank:>4} {exact:>9.4g} {res.value_linear:>12.6f} {by_hand:>10.4g} {off:>11.1e}", end=" ")
    print(f"{log['value_linear']:>9.4g} {plain:>9.4g}")
    checks += [off < 1e-4, exact < by_hand < 3 * exact, res.value_linear < 0.3 * exact]
    checks += [plain > exact, abs(log["value_linear"] / plain - 1) < 0.01]
checks += [abs(found[unit, 0, 10] / found[1, 0, 10] - 1) < 1e-3 for unit in (10, 100)]
checks.append(found[1, 2, 10] < 0.5 * found[1, 0, 10])
sys.exit(0 if all(checks) else 1)
PY
