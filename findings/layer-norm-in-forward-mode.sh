#!/usr/bin/env bash
# Training on a directional derivative: through LayerNorm the loss is right, and the gradient of its parameters is not.
#
# Losses on n . grad f(x) train energies and critics: gradient penalties, sliced scores, regressions of a potential's slope. A
# forward-mode product (torch.func.jvp) gives n . grad f in one pass, and one ordinary backward pass then gives the gradient of
# the parameters, cheaper than a double backward.
#
# Natural guess: both ways give the same gradient, whatever normalisation the network has.
# What happens: with torch.nn.LayerNorm the value agrees with the double backward to rounding, but the gradient of the parameters
# is another one, without an error or a warning: the pass through the forward-mode rule takes mean and spread as constants.
# GroupNorm, RMSNorm, and LayerNorm's formula written out are right. So are all of them by double backward.
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
from torch import nn

torch.manual_seed(0)
x, directions = torch.randn(2, 4, 6, dtype=torch.float64)


class Written(nn.Module):
    def forward(self, h):
        centred = h - h.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def forward_mode(f):
    return torch.func.jvp(f, (x,), (directions,))[1]


def double_backward(f):
    points = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(points).sum(), points, create_graph=True)
    return (slope * directions).sum(-1, keepdim=True)


def loss(network, product):
    return (product(lambda points: network(points)) - 1).square().mean()


def derivatives(norm, product):
    """Loss, and its derivative along one direction of the first layer's weights: by autograd and by a difference quotient."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), norm, nn.Linear(16, 1)).double()
    weight = network[0].weight
    along = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    value = loss(network, product)
    (gradient,) = torch.autograd.grad(value, weight)
    ends = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight += step * along
        ends.append(loss(network, product).item())
        with torch.no_grad():
            weight -= step * along
    return value.item(), (gradient * along).sum().item(), (ends[0] - ends[1]) / 2e-5


norms = {
    "LayerNorm": lambda: nn.LayerNorm(16, elementwise_affine=False),
    "written out": Written,
    "GroupNorm": lambda: nn.GroupNorm(4, 16, affine=False),
    "RMSNorm": lambda: nn.RMSNorm(16, elementwise_affine=False),
}
wrong, values = set(), {}
print(f"{'norm':<12} {'product':<16} {'loss':>9} {'gradient':>10} {'quotient':>10}")
for name, norm in norms.items():
    for product in (forward_mode, double_backward):
        value, gradient, quotient = derivatives(norm(), product)
        values[name, product.__name__] = value
        if abs(gradient - quotient) > 1e-5 * abs(quotient):
            wrong.add((name, product.__name__))
        print(f"{name:<12} {product.__name__:<16} {value:9.5f} {gradient:10.5f} {quotient:10.5f}")
same = abs(values["LayerNorm", "forward_mode"] - values["LayerNorm", "double_backward"]) < 1e-12
sys.exit(0 if wrong == {("LayerNorm", "forward_mode")} and same else 1)
PY
