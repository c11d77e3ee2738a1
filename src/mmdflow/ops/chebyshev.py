"""Expansions of radial kernels between boxes in Chebyshev polynomials: what the tree's loops multiply with.

With x = c + h t and y = c' + h s in two boxes of one size, k(x, y) = sum_kl C_kl T_k(t) T_l(s), where T_k = T_k1(t_1) ...
T_kd(t_d), from the kernel at Chebyshev nodes (Fong and Darve 2009, with coefficients in place of nodal values). Of the
polynomials those with |k| at most the degree are kept, in the Euclidean norm (Trefethen 2017): half of all in three dimensions,
at the same error.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
import torch

from mmdflow.kernels.profiles import Profile, Term, evaluate
from mmdflow.ops.numba_tree import REACH


class Basis(NamedTuple):
    """The polynomials of a degree in a dimension.

    Attributes:
        degree: the largest of one axis.
        powers: k of each, [P, 3]; of fewer dimensions the last axes count.
        rows: for the loops, [r, 4]: k_1, k_2, and where k_3 = 0, 1, ... begin and how many there are.
        grid: the nodes in [-1, 1]^d, [nodes, d].
        transform: from values at the nodes to coefficients, [P, nodes].
        halves: of each child: T_k on its box as coefficients there, [2^d, P, P].
        slots: of each code of an offset, which of the offsets that are enough it is turned to; 0 for codes of no pairs.
        moves: of each code, where a coefficient goes when the offset is turned to that one, [codes, P].
        signs: and its sign, [codes, P].
        offsets: those that are enough, [slots, d].
    """

    degree: int
    powers: np.ndarray
    rows: np.ndarray
    grid: np.ndarray
    transform: np.ndarray
    halves: np.ndarray
    slots: np.ndarray
    moves: np.ndarray
    signs: np.ndarray
    offsets: np.ndarray


@functools.lru_cache(32)
def basis(degree: int, dim: int) -> Basis:
    """Return the polynomials of that degree and what depends on no kernel."""
    powers = np.array([k for k in itertools.product(range(degree + 1), repeat=dim) if _norm(k) <= degree])
    powers = np.concatenate([np.zeros((len(powers), 3 - dim), int), powers], 1)
    _, first, length = np.unique(powers[:, :2], axis=0, return_index=True, return_counts=True)
    rows = np.concatenate([powers[first, :2], first[:, None], length[:, None]], 1)
    angles = (np.arange(degree + 1) + 0.5) * (np.pi / (degree + 1))
    nodes = np.cos(angles)
    grid = np.stack(np.meshgrid(*[nodes] * dim, indexing="ij"), -1).reshape(-1, dim)
    along = np.cos(np.arange(degree + 1)[:, None] * angles) * (2 / (degree + 1))  # from values to coefficients
    along[0] /= 2
    halves = []
    for sign in (-1, 1):
        on_half = np.cos(np.arange(degree + 1)[:, None] * np.arccos((nodes + sign) / 2))  # T_k at the half's nodes
        halves.append(on_half @ along.T)
    whole = [range(1)] * (3 - dim)
    of_child = [
        np.prod([halves[bits[a]][np.ix_(powers[:, a], powers[:, a])] for a in range(3 - dim, 3)], 0)
        for bits in itertools.product(*whole, *[range(2)] * dim)
    ]
    kept = powers[:, 3 - dim :]
    transform = np.ones((len(kept), 1))
    for axis in range(dim):
        transform = (transform[:, :, None] * along[kept[:, axis]][:, None, :]).reshape(len(kept), -1)
    return Basis(degree, powers, rows, grid, transform, np.stack(of_child), *_turns(powers, dim))


def _norm(k: tuple[int, ...]) -> float:
    return float(np.sqrt(sum(entry**2 for entry in k)))


def _turns(powers: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return `slots`, `moves`, `signs` and `offsets`."""
    index = {tuple(k): i for i, k in enumerate(powers.tolist())}
    slots = np.zeros(REACH**3, np.int64)
    moves, signs = np.zeros((REACH**3, len(powers)), np.int64), np.zeros((REACH**3, len(powers)))
    known: dict[tuple[int, ...], int] = {}
    for code, offset in enumerate(itertools.product(range(-(REACH // 2), REACH // 2 + 1), repeat=3)):
        away = -np.array(offset)  # from the source to the target
        if np.abs(away).max() < 2 or np.any(away[: 3 - dim]):
            continue
        order = np.argsort(np.abs(away), kind="stable")
        slots[code] = known.setdefault(tuple(np.abs(away)[order].tolist()), len(known))
        moves[code] = [index[tuple(k)] for k in powers[:, order].tolist()]
        signs[code] = np.prod(np.where(away < 0, -1, 1) ** powers, 1)
    return slots, moves, signs, np.array(list(known))[:, 3 - dim :]


class Tables(NamedTuple):
    """The coefficients between boxes of one size.

    Attributes:
        between: C transposed, [slots, P, P], but for C_00, which stands apart so that float32 keeps the digits of slopes.
        constant: C_00, [slots].
        value: the largest |k| of each, [slots].
        slope: and the largest |slope r|, [slots].
    """

    between: torch.Tensor
    constant: np.ndarray
    value: np.ndarray
    slope: np.ndarray


@functools.lru_cache(24)
def tables(profile: Profile, edge: float, degree: int, dim: int) -> Tables:
    """Return the coefficients of a profile between boxes of that edge."""
    of = basis(degree, dim)
    between, constant, value, slope = [], [], [], []
    inside = 0.5 * (of.grid.T[:, :, None] - of.grid.T[:, None, :])
    for offset in of.offsets:
        r2 = torch.from_numpy(sum((edge * (along + step)) ** 2 for along, step in zip(inside, offset, strict=True)))
        values, slopes = (t.numpy() for t in evaluate(Term(profile, 1.0, 1.0), r2))
        coefficients = of.transform @ values @ of.transform.T
        constant.append(coefficients[0, 0])
        coefficients[0, 0] = 0
        between.append(coefficients.T)
        value.append(np.abs(values).max())
        slope.append(np.abs(slopes * r2.sqrt().numpy()).max())
    return Tables(torch.from_numpy(np.stack(between)), np.array(constant), np.array(value), np.array(slope))
