#!/usr/bin/env bash
# The unbiased MMD^2 of frouros with a kernel of one's own: it is unbiased for kernels with k(x, x) = 1 alone.
#
# frouros measures the drift of data by the unbiased MMD^2 (a U-statistic: pairs of a sample with itself are left out), and takes
# any callable as its kernel. Sums of Gaussians of several bandwidths are the usual choice.
#
# Natural guess: whatever the kernel, the mean over many pairs of samples of one distribution is 0.
# What happens: in place of the kernel's own diagonal, n is taken off each of the sums over pairs, which is the diagonal of a
# kernel with k(x, x) = 1. A sum of three Gaussians is off by 2/(n - 1) + 2/(m - 1), and samples of one distribution look apart.
# For linear and polynomial kernels the error depends on the data. The same sum over three, whose diagonal is 1, is right.
#
# Seen with frouros 0.9.0, numpy 2.1.3. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'frouros==0.9.0' 'numpy==2.1.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
from frouros.detectors.data_drift import MMD


def squares(x, y):
    return ((x[:, None] - y) ** 2).sum(-1)


KERNELS = {
    "Gaussian": lambda x, y: np.exp(-squares(x, y) / 2),
    "mean of three Gaussians": lambda x, y: sum(np.exp(-squares(x, y) / (2 * w)) for w in (0.5, 1, 2)) / 3,
    "sum of three Gaussians": lambda x, y: sum(np.exp(-squares(x, y) / (2 * w)) for w in (0.5, 1, 2)),
    "linear": lambda x, y: x @ y.T,
}
N, M, REPEATS = 60, 40, 200


def off_diagonal(kernel, x):
    gram = kernel(x, x)
    return (gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1))


found = {}
print(f"mean over {REPEATS} pairs of samples of one distribution, n = {N}, m = {M}, with its standard error")
print(f"{'kernel':<24} {'frouros':>18} {'without the diagonal':>22}")
for name, kernel in KERNELS.items():
    rng, theirs, right = np.random.default_rng(0), [], []
    for _ in range(REPEATS):
        x, y = rng.normal(size=(N, 3)), rng.normal(size=(M, 3))
        detector = MMD(kernel=kernel)
        detector.fit(X=x)
        theirs.append(detector.compare(X=y)[0].distance)
        right.append(off_diagonal(kernel, x) + off_diagonal(kernel, y) - 2 * kernel(x, y).mean())
    found[name] = np.mean(theirs), np.mean(right), np.std(right) / REPEATS**0.5
    print(f"{name:<24} {found[name][0]:>10.4f} +- {found[name][2]:.4f} {found[name][1]:>12.4f} +- {found[name][2]:.4f}")
expected = 2 / (N - 1) + 2 / (M - 1)
print(f"2/(n - 1) + 2/(m - 1) = {expected:.4f}")
ones = all(abs(found[name][0] - found[name][1]) < 1e-12 for name in ("Gaussian", "mean of three Gaussians"))
shifted = abs(found["sum of three Gaussians"][0] - found["sum of three Gaussians"][1] - expected) < 1e-9
linear = found["linear"][0] - found["linear"][1] > 5 * found["linear"][2]
unbiased = all(abs(mean) < 4 * error for _, mean, error in found.values())
sys.exit(0 if ones and shifted and linear and unbiased else 1)
PY
