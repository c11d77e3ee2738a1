#!/usr/bin/env bash
# Change points by a Gaussian kernel (ruptures): events nearer than a tenth of the bandwidth are all the same distance apart.
#
# Kernel change-point detection cuts a series where the MMD between neighbouring parts is large. ruptures documents the kernel
# exp(-gamma |x - y|^2), with gamma = 1 / (median of |x - y|^2) unless one is given.
#
# Natural guess: the kernel is characteristic, so that a clear change is found at its place whatever else the series has; a small
# gamma only makes it a detector of changes in the mean, with the cost 2 gamma sum |x - mean|^2 of a part.
# What happens: gamma |x - y|^2 is kept between 0.01 and 100 for two different events. So k never exceeds 0.990 off the diagonal,
# and all differences below a tenth of 1 / sqrt(gamma) are one difference. A step of ten times the noise goes unseen where half
# of the pairs are some twenty times as far apart, that is when a later part of the same series lies far away: the cut that is
# left over falls anywhere. With gamma 0.001 the cost of a series of spread 1 is one number, whatever is in it. Dynp with "rbf"
# and KernelCPD in C both do so. The plain kernel with the same gamma finds the step.
#
# Seen with ruptures 1.1.10, numpy 2.3.5, scipy 1.16.3. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'ruptures==1.1.10' 'numpy==2.3.5' 'scipy==1.16.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import ruptures


def squares(x):
    return (x[:, None] - x[None]) ** 2


def plain(x, cuts):
    """The best cuts into 2 or 3 parts under exp(-gamma |x - y|^2), by trying all."""
    distances = squares(x)
    gamma = 1 / np.median(distances[np.triu_indices(len(x), 1)])
    sums = np.pad(np.exp(-gamma * distances).cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def cost(a, b):
        return b - a - (sums[b, b] - sums[a, b] - sums[b, a] + sums[a, a]) / (b - a)

    n, least = len(x), 2
    if cuts == 1:
        return min(([i] for i in range(least, n - 1)), key=lambda c: cost(0, c[0]) + cost(c[0], n))
    pairs = ([i, j] for i in range(least, n - 3) for j in range(i + least, n - 1))
    return min(pairs, key=lambda c: cost(0, c[0]) + cost(c[0], c[1]) + cost(c[1], n))


def found(x, cuts):
    one = ruptures.Dynp(model="rbf", jump=1, min_size=2).fit_predict(x, cuts)[:-1]
    return one, ruptures.KernelCPD(kernel="rbf", min_size=2).fit(x).predict(cuts)[:-1], plain(x, cuts)


checks = []
print("Steps at 80 (by 0.5) and at 150 (by 9.5), noise 0.05: Dynp, KernelCPD, plain kernel")
for seed in range(5):
    levels = np.repeat([0.0, 0.5, 10.0], [80, 70, 150])
    x = levels + 0.05 * np.random.default_rng(seed).normal(size=300)
    both, first = found(x, 2), found(x[:150], 1)
    print(f"  seed {seed}: {both[0]} {both[1]} {both[2]}; of the first 150 events alone: {first[0]} {first[1]} {first[2]}")
    checks += [both[2] == [80, 150], all(c == [80] for c in first), both[0][1] == both[1][1] == 150]
    checks += [abs(both[0][0] - 80) > 5, abs(both[1][0] - 80) > 5]

print("Cost of a whole series of 150: gamma, with a step, without one, 2 gamma sum |x - mean|^2 of both")
noise = np.random.default_rng(0).normal(size=150)
for gamma in (0.001, 0.0001):
    row = []
    for x in (noise + np.repeat([0.0, 1.0], 75), 0.1 * noise):
        row.append((ruptures.costs.CostRbf(gamma=gamma).fit(x).error(0, 150), 2 * gamma * ((x - x.mean()) ** 2).sum()))
    print(f"  {gamma}: {row[0][0]:.5f} {row[1][0]:.5f}; {row[0][1]:.5f} {row[1][1]:.5f}")
    one = 149 * (1 - np.exp(-0.01))
    checks += [abs(row[1][0] - one) < 1e-9, abs(row[0][0] - one) < 0.05 * one, row[0][1] > 50 * row[1][1]]
sys.exit(0 if all(checks) else 1)
PY
