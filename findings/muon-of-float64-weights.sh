#!/usr/bin/env bash
# torch.optim.Muon: the step of a float64 matrix has two digits.
#
# Muon steps a matrix along the orthogonal factor of its momentum, by five Newton-Schulz iterations. Its options are the
# coefficients, the number of iterations and an eps; none of them speaks of precision.
#
# Natural guess: as with every other optimiser of torch, the step is computed in the type of the parameter: float64 weights, which
# one takes for reference runs and small kernel models, get a float64 step.
# What happens: the iterations run in bfloat16 whatever the type. The steps of float64 and of float32 weights are the same numbers,
# all of them bfloat16 ones, 1.5 percent away from the same five iterations in float64. Nothing is said. As a function of the
# gradient the step jumps: a change of 1e-6 moves it by 1.4e-2, one of 1e-8 not at all, where the iterations in float64 move by as
# much as the gradient. So two machines whose gradients agree to float32's rounding part by percents at every step. AdamW, in the
# same script, differs from its formula by rounding of float64 alone.
#
# Seen with torch 2.13.0. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'torch==2.13.0' 'numpy==2.3.5'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import torch

A, B, C = 3.4445, -4.775, 2.0315  # the coefficients by default
torch.manual_seed(0)
gradient = torch.randn(48, 64, dtype=torch.float64)


def step(optimiser, grad, **options):
    """Return minus the first step of weights that are zero."""
    weights = torch.nn.Parameter(torch.zeros_like(grad))
    weights.grad = grad.clone()
    optimiser([weights], lr=1.0, weight_decay=0.0, **options).step()
    return -weights.detach()


def muon(grad):
    return step(torch.optim.Muon, grad, momentum=0.0, nesterov=False)


def iterations(x):
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x


def apart(x, y):
    return float((x.double() - y.double()).norm() / y.double().norm())


exact = iterations(gradient)
found = muon(gradient)
of_float32 = muon(gradient.float())
rounded = bool((found.bfloat16().double() == found).all())
moves = {}
for change in (1e-3, 1e-6, 1e-8):
    other = gradient * (1 + change * torch.randn(48, 64, dtype=torch.float64))
    moves[change] = apart(muon(other), found), apart(iterations(other), exact)
adamw = apart(step(torch.optim.AdamW, gradient), gradient / (gradient.abs() + 1e-8))

print(f"Muon, float64, from the iterations in float64: {apart(found, exact):.1e}")
print(f"Muon, float32, from the same:                  {apart(of_float32, exact):.1e}")
print(f"the iterations in float32, from the same:      {apart(iterations(gradient.float()), exact):.1e}")
print(f"AdamW, float64, from its formula:              {adamw:.1e}")
print(f"every entry of the float64 step is a bfloat16: {rounded}")
for change, (of_muon, of_iterations) in moves.items():
    print(f"gradient changed by {change:.0e}: the step moves by {of_muon:.1e}, by {of_iterations:.1e} in float64")

checks = [3e-3 < apart(found, exact) < 0.1, rounded, torch.equal(found, of_float32.double())]
checks += [apart(iterations(gradient.float()), exact) < 1e-5, adamw < 1e-12]
checks += [moves[1e-6][0] > 1e-3, moves[1e-8][0] == 0, all(change / 3 < exact < 3 * change for change, (_, exact) in moves.items())]
sys.exit(0 if all(checks) else 1)
PY
