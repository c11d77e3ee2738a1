#!/usr/bin/env bash
# A gradient penalty through an operation that is marked once_differentiable: another gradient, and often no error.
#
# Losses on the slope of a network (gradient penalties, potentials, score matching) differentiate it twice. An operation of one's
# own whose backward pass cannot be differentiated is to be marked with torch.autograd.function.once_differentiable, "so that
# performing double backward raises an error".
#
# Natural guess: loss.backward() of such a penalty raises, and so does torch.autograd.grad of it.
# What happens: the mark makes an error only where the gradient that comes into the backward pass asks for a gradient itself, and
# only if the second pass gets there. Where the operation is the last one before the sum, as in an energy, what comes in is ones:
# its slope is a constant to the second pass, and the parameters before it get the rest of their gradient, a third of it below.
# Where something follows, backward() raises; torch.autograd.grad for parameters does not, for the way to them does not lead
# through the mark. gradcheck passes. The penalty itself has the right value throughout.
#
# Seen with torch 2.13.0 (CPU), numpy 2.3.5. Exits 1 if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'torch==2.13.0' 'numpy==2.3.5'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    """The cube of every entry; it can be differentiated as often as one likes."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class Marked(Cube):
    """The same, marked."""

    backward = staticmethod(once_differentiable(Cube.backward))


def penalty(function, energy, w, x):
    (slope,) = torch.autograd.grad(energy(function.apply, w, x).sum(), x, create_graph=True)
    return (slope - 1).square().sum()


ENERGIES = {
    "cube(w x)": lambda f, w, x: f(w * x),
    "cube(w x) + w x^2": lambda f, w, x: f(w * x) + w * x**2,
    "cube(w x)^2": lambda f, w, x: f(w * x) ** 2,
}
checks = []
print(f"{'energy':<18} {'penalty':>10} {'marked':>10} {'d/dw':>12} {'grad':>12} {'marked: grad':>13} {'marked: backward()':>19}")
for name, energy in ENERGIES.items():
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([1.5, -0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Marked.apply, (x,))
    plain, marked = (penalty(f, energy, w, x) for f in (Cube, Marked))
    step = 1e-6
    (by_hand,) = ((penalty(Cube, energy, w + step, x) - penalty(Cube, energy, w - step, x)) / (2 * step)).detach()[None]
    right = torch.autograd.grad(plain, w)[0].item()
    found = torch.autograd.grad(marked, w, retain_graph=True)[0].item()
    try:
        marked.backward()
        by_backward = f"{w.grad.item():.1f}"
    except RuntimeError:
        by_backward = "an error"
    print(f"{name:<18} {plain:>10.1f} {marked:>10.1f} {by_hand:>12.1f} {right:>12.1f} {found:>13.1f} {by_backward:>19}")
    silent = name != "cube(w x)^2"
    checks += [plain == marked, abs(right / by_hand - 1) < 1e-4, abs(found / right - 1) > 0.3]
    checks.append(by_backward == (f"{found:.1f}" if silent else "an error"))
sys.exit(0 if all(checks) else 1)
PY
