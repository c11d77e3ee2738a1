#!/usr/bin/env bash
# POT's value of entropic unbalanced transport is 0, whatever the data.
#
# ot.solve(M, a, b, reg, unbalanced) lets mass appear and vanish at a price: it minimises <T, M> + reg KL(T | a b^T) + unbalanced
# (KL(T 1 | a) + KL(T^T 1 | b)), and returns the plan, its linear part, and res.value, the "Optimal value".
#
# Natural guess: res.value is that sum at the plan, a distance of a kind: larger than <T, M>, growing with the distance between
# the clouds, at reg -> 0 what reg=None gives.
# What happens: it is 0 up to the tolerance of the iterations, for all data, reg and unbalanced. The plan is right: it is the
# minimum for KL(p | q) = sum p log(p / q) - p + q. The value leaves - p + q out, and what remains is the derivative by the plan's
# total mass, which vanishes at that minimum. Nor is 0 the minimum of the sum without - p + q: a smaller plan has less.
# So a table of these values is all zeros, and as a loss it has nothing to learn from. sinkhorn_unbalanced2(returnCost="total") is
# the same; its default, the linear part, is right. ot.solve without reg, and mm_unbalanced with it, have the whole KL.
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
n = 30
a = np.full(n, 1 / n)
x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))


def kl(p, q, whole):
    return (p * np.log(p / q)).sum() + whole * (q - p).sum()


def objective(plan, cost, reg, price, whole=True):
    margins = kl(plan.sum(1), a, whole) + kl(plan.sum(0), a, whole)
    return (plan * cost).sum() + reg * kl(plan, np.outer(a, a), whole) + price * margins


checks = []
print("The last: sinkhorn_unbalanced2 with returnCost='total'")
names = f"{'res.value':>11} {'<T, M>':>8} {'sum by hand':>12} {'mm_unbalanced':>14} {'total':>11}"
print(f"{'shift':>5} {'reg':>5} {'unbalanced':>10} {names}")
for shift in (0, 1, 3):
    for reg, price in ((0.5, 1), (0.5, 5), (2, 1)):
        cost = ot.dist(x, y + [shift, 0])
        res = ot.solve(cost, a, a, reg=reg, unbalanced=price, max_iter=20_000)
        slow = ot.unbalanced.mm_unbalanced(a, a, cost, price, reg=reg, div="kl", numItermax=50_000, stopThr=1e-13, log=True)
        two = ot.sinkhorn_unbalanced2(a, a, cost, reg, price, reg_type="kl", numItermax=20_000, stopThr=1e-12, returnCost="total")
        right = objective(res.plan, cost, reg, price)
        print(f"{shift:>5} {reg:>5} {price:>10} {res.value:>11.1e} {res.value_linear:>8.4f} {right:>12.4f}", end=" ")
        print(f"{slow[1]['total_cost']:>14.4f} {float(two):>11.1e}")
        checks += [abs(res.value) < 1e-5, abs(float(two)) < 1e-5, res.value_linear > 0.1, right > res.value_linear]
        checks += [abs(slow[1]["total_cost"] / right - 1) < 1e-4, abs(slow[0] - res.plan).max() < 1e-4 * res.plan.max()]
        larger, smaller = (objective(s * res.plan, cost, reg, price) for s in (1.1, 0.9))
        checks += [larger > right, smaller > right, objective(0.9 * res.plan, cost, reg, price, whole=False) < -1e-3]

print("One event each, cost 1: res.value, and the minimum (reg + 2 unbalanced) (1 - exp(-1 / (reg + 2 unbalanced)))")
one = np.ones(1)
for reg, price in ((0.5, 1), (2, 5)):
    value = ot.solve(np.ones((1, 1)), one, one, reg=reg, unbalanced=price, max_iter=20_000).value
    known = (reg + 2 * price) * (1 - np.exp(-1 / (reg + 2 * price)))
    print(f"  reg {reg}, unbalanced {price}: {value:.1e} {known:.4f}")
    checks += [abs(value) < 1e-5, known > 0.5]

cost = ot.dist(x, y)
exact, res = (ot.solve(cost, a, a, reg=reg, unbalanced=1, max_iter=50_000) for reg in (None, 0.05))
near = objective(np.maximum(res.plan, 1e-300), cost, 0.05, 1)
print(f"unbalanced 1, shift 0: value without reg {exact.value:.4f}; at reg 0.05 {res.value:.1e}, by hand {near:.4f}")
checks += [exact.value > 0.2, abs(res.value) < 1e-5, 1 < near / exact.value < 1.5]
sys.exit(0 if all(checks) else 1)
PY
