#!/usr/bin/env bash
# hyppo's Energy and MMD statistics are neither the energy distance nor the MMD^2 that their pages define.
#
# hyppo.ksample.Energy and .MMD document the sums of Szekely and of Gretton et al., "up to a scaling factor".
#
# Natural guess: divide by one constant that depends on the numbers of samples, and Energy(bias=True) is the energy distance of
# dcor (2 E|X - Y| - E|X - X'| - E|Y - Y'|), and MMD(bias=True) the MMD^2 of the same kernel. Samples that are twice as large have
# twice the energy statistic.
# What happens: Energy scales after a square root: of equal sizes it is sqrt(8 times the energy distance), so that samples twice as
# large have sqrt(2) times as much. MMD is a correlation, the root of a quotient, and multiplied by the factor that would have to
# divide it. Of equal sizes it never exceeds 1/8, its ratio to MMD^2 varies threefold below, and that to the MMD is no constant
# either. P-values by permutation are not affected.
#
# Seen with hyppo 0.5.2, dcor 0.7, numpy 2.3.5, numba 0.63.1, scipy 1.16.3, scikit-learn 1.8.0. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'hyppo==0.5.2' 'dcor==0.7' 'numpy==2.3.5' \
    'numba==0.63.1' 'scipy==1.16.3' 'scikit-learn==1.8.0'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import dcor
import numpy as np
from hyppo.ksample import MMD, Energy

rng = np.random.default_rng(0)


def gram(a, b):
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2)


def mmd2(x, y):
    return gram(x, x).mean() + gram(y, y).mean() - 2 * gram(x, y).mean()


checks = []
print("Energy(bias=True): statistic, energy distance E, statistic / E, statistic / sqrt(E)")
for shift in (0.5, 2.0):
    for scale in (1.0, 2.0):
        x, y = scale * rng.normal(size=(60, 2)), scale * (rng.normal(size=(60, 2)) + shift)
        found, energy = Energy(bias=True).statistic(x, y), dcor.energy_distance(x, y)
        print(f"  shift {shift}, scale {scale}: {found:.4f} {energy:.4f} {found / energy:.3f} {found / energy**0.5:.4f}")
        checks.append(abs(found - (8 * energy) ** 0.5) < 1e-6 * found)
x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 2)) + 1
ratio = Energy(bias=True).statistic(2 * x, 2 * y) / Energy(bias=True).statistic(x, y)
print(f"  the same samples, twice as large: {ratio:.4f} times")
checks.append(abs(ratio - 2**0.5) < 1e-6)

print("MMD(bias=True) with exp(-|x - y|^2 / 2): statistic, MMD^2, statistic / MMD^2, statistic / MMD")
ratios = []
for shift in (0.25, 0.5, 2.0, 20.0):
    x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 2)) + shift
    found, squared = MMD(compute_kernel="gaussian", bias=True, gamma=0.5).statistic(x, y), mmd2(x, y)
    ratios.append((found / squared, found / squared**0.5))
    print(f"  shift {shift}: {found:.5f} {squared:.5f} {ratios[-1][0]:.4f} {ratios[-1][1]:.4f}")
    checks.append(found <= 1 / 8)
squared, plain = zip(*ratios)
checks += [max(squared) > 2.5 * min(squared), max(plain) > 1.01 * min(plain)]
sys.exit(0 if all(checks) else 1)
PY
