#!/usr/bin/env bash
# scikit-learn's estimate_bandwidth(quantile=0.5) is not the median of all pairwise distances that its page promises.
#
# "0.5 means that the median of all pairwise distances is used": the median heuristic for the width of a kernel, from a library
# that is there anyway.
#
# Natural guess: it equals numpy.median(pdist(x)), up to ties and rounding, and one wild event in hundreds does not move it.
# What happens: it is a mean over events, of each one's distance to its (n / 2)-th nearest event, itself counted. A mean has no
# resistance: one event of 500 at the distance D adds D / 500. In two groups of 60 and 40 percent, the median over pairs is a
# distance within a group; the mean has 40 percent of the distance between the groups in it. The same holds at every quantile.
# Where the data are one round cloud, both agree within some percent, so that nobody sees it.
#
# Seen with scikit-learn 1.8.0, numpy 2.3.5, scipy 1.16.3. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'scikit-learn==1.8.0' 'numpy==2.3.5' 'scipy==1.16.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import estimate_bandwidth

rng = np.random.default_rng(0)
cloud = rng.normal(size=(500, 2))
wild = cloud.copy()
wild[0] = 1e6, 0
groups = cloud + np.repeat([[0, 0], [100, 0]], [300, 200], axis=0)

found = {}
print(f"{'data':>12} {'quantile':>9} {'scikit-learn':>13} {'over pairs':>11} {'mean over events':>17}")
for name, x in (("cloud", cloud), ("1 wild event", wild), ("two groups", groups)):
    for quantile in (0.5, 0.3):
        sorted_rows = np.sort(squareform(pdist(x)), axis=1)  # the first of each row is the event itself
        mean = sorted_rows[:, int(len(x) * quantile) - 1].mean()
        row = estimate_bandwidth(x, quantile=quantile), np.quantile(pdist(x), quantile), mean
        found[name, quantile] = row
        print(f"{name:>12} {quantile:>9} {row[0]:>13.4f} {row[1]:>11.4f} {row[2]:>17.4f}")
checks = [abs(ours - mean) < 1e-6 * mean for ours, _, mean in found.values()]
checks.append(abs(found["cloud", 0.5][0] / found["cloud", 0.5][1] - 1) < 0.1)
checks += [found["1 wild event", quantile][0] > 1000 * found["1 wild event", quantile][1] for quantile in (0.5, 0.3)]
checks.append(found["two groups", 0.5][0] > 10 * found["two groups", 0.5][1])
sys.exit(0 if all(checks) else 1)
PY
