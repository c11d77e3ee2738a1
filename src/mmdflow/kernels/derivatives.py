"""Derivatives of a kernel by automatic differentiation of its Gram matrix: what `Kernel` offers where a class gives no better.

They work under `torch.no_grad` and `torch.inference_mode`, and are themselves differentiable where an input asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

#: A function of x [n, *event] and y [m, *event] that returns k(x_i, y_j), [n, m].
Gram: TypeAlias = Callable[[Tensor, Tensor], Tensor]
#: Of `mixed`: events of y an entry of theirs from which on they are many, and numbers (pairs or entries) that a pass holds.
_MANY, _AT_ONCE = 4, 2**18


@contextmanager
def differentiable() -> Iterator[None]:
    """Let autograd record inside the block, whatever is set around it."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def recordable(x: Tensor) -> Tensor:
    """Return x, or a copy that autograd takes if x was made in inference mode."""
    return x.clone() if x.is_inference() else x


def leaf(x: Tensor) -> Tensor:
    """Return the values of x as a leaf to differentiate in; call it inside `differentiable`."""
    return recordable(x).detach().requires_grad_()


def grad(gram: Gram, x: Tensor, y: Tensor, weights: Tensor, *, again: bool) -> Tensor:
    """Return sum_j weights_ij grad_1 k(x_i, y_j), shaped like x; differentiable in turn if `again`."""
    with differentiable():
        z = x.view_as(x) if again and x.requires_grad else leaf(x)
        total = (gram(z, recordable(y)) * recordable(weights)).sum()
        return _gradient(total, z, again)


def diag(gram: Gram, x: Tensor, block: int = 64) -> Tensor:
    """Return k(x_i, x_i), [n], from the diagonals of small Gram matrices: O(n block), not O(n^2)."""
    return torch.cat([gram(rows, rows).diagonal() for rows in x.split(block)])


def tangent(gram: Gram, x: Tensor, y: Tensor, vectors: Tensor, *, again: bool) -> Tensor:
    """Return sum_j <vectors_j, grad_2 k(x_i, y_j)>, [n]; differentiable in x if `again`."""
    with differentiable():
        ones = recordable(x).new_ones(len(x)).requires_grad_()
        z = leaf(y)
        slope = _gradient(ones @ gram(recordable(x), z).sum(1), z, True)
        return _gradient((slope * recordable(vectors)).sum(), ones, again)


def tangent_grad(gram: Gram, x: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
    """Return the gradient in x_i of `tangent`, shaped like x."""
    with differentiable():
        x, y = leaf(x), leaf(y)
        slope = _gradient(gram(x, y).sum(), y, True)
        return _gradient((slope * recordable(vectors)).sum(), x, False)


def mixed(gram: Gram, x: Tensor, y: Tensor) -> Tensor:
    """Return all second derivatives d^2 k(x_i, y_j) / dx_ia dy_jb, [n, d, m, d], with events flattened to d entries."""
    with differentiable():
        x, y = leaf(x), leaf(y)
        values, entries = gram(x, y), x[0].numel()
        slope = _gradient(values.sum(), y, True).flatten()
        if len(y) > _MANY * entries and (found := _mixed_of_many(values, x, y, slope)) is not None:
            return found
        rows = _jacobian(slope, x, max(1, _AT_ONCE // max(values.numel(), x.numel(), y.numel())))
    return rows.reshape(len(y), entries, len(x), entries).permute(2, 3, 0, 1)


def _mixed_of_many(values: Tensor, x: Tensor, y: Tensor, slope: Tensor) -> Tensor | None:
    """Return what `mixed` does, by d + d^2 passes over the Gram matrix in place of m d.

    A sum over pairs has a weight for every pair. What is linear in the weights has as its gradient in them one number a pair,
    which differentiates the derivatives once more. Functions with two of them and no more may raise, or be 0 without a word. So
    the result is compared with a plain derivative along one direction; None where it is another.
    """
    try:
        found = [torch.stack(_by_pairs(slope, x), 1) for slope in _by_pairs(values, y, again=True)]
    except RuntimeError:
        return None
    result = torch.stack(found, 3)
    direction = torch.arange(1, len(slope) + 1, device=slope.device, dtype=slope.dtype).cos()
    plain = _gradient((slope * direction).sum(), x, False, retain=True).flatten(1)
    here, along = result.detach(), direction.view(len(y), -1)
    size = torch.einsum("namb,mb->na", here.abs(), along.abs())
    wrong = (torch.einsum("namb,mb->na", here, along) - plain).abs() > 1e-3 * torch.maximum(size, plain.abs())
    return None if wrong.any() else result


def _by_pairs(values: Tensor, points: Tensor, *, again: bool = False) -> list[Tensor]:
    """Return the derivatives of values [n, m] in each entry of the points of their rows or columns: d of [n, m]."""
    weights = torch.ones_like(values).requires_grad_()
    slope = _gradient((weights * values).sum(), points, True).flatten(1).sum(0)
    return [_gradient(entry, weights, again, retain=True) for entry in slope]


def _jacobian(values: Tensor, leaf: Tensor, at_once: int) -> Tensor:
    """Return the gradients of numbers [k] in a leaf, [k, *leaf]: `at_once` of them a pass, or one where a function cannot."""
    places = torch.arange(len(values), device=values.device)
    if at_once > 1 and values.requires_grad:
        options = {"is_grads_batched": True, "retain_graph": True, "materialize_grads": True}
        try:
            choices = ((part[:, None] == places).to(values.dtype) for part in places.split(at_once))
            return torch.cat([torch.autograd.grad(values, leaf, choice, **options)[0] for choice in choices])
        except RuntimeError:  # a function of somebody's own that no batch goes through
            pass
    return torch.stack([_gradient(value, leaf, False, retain=True) for value in values])


def _gradient(total: Tensor, leaf: Tensor, again: bool, retain: bool = False) -> Tensor:
    """Return the gradient of a number, 0 where it does not depend on the leaf."""
    if not total.requires_grad:
        return torch.zeros_like(leaf)
    kept = again or retain
    return torch.autograd.grad(total, leaf, create_graph=again, retain_graph=kept, materialize_grads=True)[0]
