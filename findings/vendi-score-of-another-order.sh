#!/usr/bin/env bash
# Vendi scores of features: score_X takes the order q and leaves it out; score_dual of the same features has it.
#
# The Vendi score of generated events is the effective number of different ones among them: the exponential of the Renyi entropy
# of order q of the eigenvalues of K / n. q = 1 is the default; a large q counts the frequent kinds alone, a small one rare ones too.
#
# Natural guess: score_X(X, q), score_dual(X, q) and score_K(X X^T, q) of rows of length 1 are three ways to one number, whose only
# difference is which of the two dimensions is the cheap one.
# What happens: score_X calls score_K with q = 1, whatever it was given. A curve of the score over q is a flat line, and scores of
# different orders come out equal, which would say that all kinds are equally frequent. At q = "inf" it is twice the right value
# below. So a change from one function to the other, when features get longer than the sample, changes the result.
#
# Seen with vendi-score 0.0.3, numpy 2.3.5, scipy 1.16.3, scikit-learn 1.8.0. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'vendi-score==0.0.3' 'numpy==2.3.5' 'scipy==1.16.3' \
    'scikit-learn==1.8.0'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
from vendi_score import vendi

x = np.random.default_rng(0).normal(size=(200, 5)) + [2, 0, 0, 0, 0]
x /= np.linalg.norm(x, axis=1, keepdims=True)
shares = np.linalg.eigvalsh(x.T @ x / len(x))


def plain(q):
    if q == "inf":
        return 1 / shares.max()
    return np.exp(-(shares * np.log(shares)).sum()) if q == 1 else (shares**q).sum() ** (1 / (1 - q))


checks = []
print(f"{'q':>4} {'by eigenvalues':>15} {'score_dual':>11} {'score_K':>8} {'score_X':>8}")
for q in (0.5, 1, 2, 10, "inf"):
    right, flat = plain(q), vendi.score_X(x, q=q)
    others = vendi.score_dual(x, q=q), vendi.score_K(x @ x.T, q=q)
    print(f"{q:>4} {right:>15.4f} {others[0]:>11.4f} {others[1]:>8.4f} {flat:>8.4f}")
    checks += [abs(other / right - 1) < 1e-4 for other in others] + [abs(flat / plain(1) - 1) < 1e-6]
checks.append(plain(1) > 1.5 * plain("inf"))
sys.exit(0 if all(checks) else 1)
PY
