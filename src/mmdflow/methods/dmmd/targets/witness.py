"""Targets known by a learned witness, which the lower bounds of Kullback-Leibler divergences give (DMMD paper, section D)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.divergences import Divergence, PotentialEnergy
from mmdflow.divergences.witness import EmbeddingWitness
from mmdflow.errors import InputError
from mmdflow.kernels import Linear
from mmdflow.methods.dmmd.targets.base import FlowKind, LevelFlow, check_width, grid_position
from mmdflow.noise import NoiseConditionalKernel, NoiseConditionalWitness, Schedule, clamped_exp


@dataclass(frozen=True)
class LevelWitness:
    """The learned witness of a noise level on features: h = <phi, a>, or -e^h.

    Attributes:
        direction: a, [K].
        reverse: whether particles flow along -e^h, the witness of KL(P | P_t), rather than along h, that of KL(P_t | P).
    """

    direction: Float[Tensor, " K"]
    reverse: bool

    def field(self, flow: LevelFlow, shares: Float[Tensor, " C"] | None = None) -> Divergence:
        """Return the potential energy of the witness, for the approximate flow; there is no other.

        Raises:
            InputError: for the exact sampler: the witness is learned, not made of the particles.
        """
        if flow.kind is not FlowKind.APPROXIMATE:
            raise InputError(
                "sampler or final_sampler = 'exact': the witness of a KL bound does not see the particles; must be 'approximate'"
            )
        h = EmbeddingWitness(Linear(), self.direction)
        return PotentialEnergy(MinusExp(h, self.direction) if self.reverse else h)

    def mismatch(self, phi: Float[Tensor, "n K"], shares: Float[Tensor, " C"] | None = None) -> tuple[float, float]:
        """Return NaN twice: without means of the data there is no MMD to it."""
        return math.nan, math.nan


class MinusExp:
    """f(phi) = -e^<phi, a>, its exponent clamped as in training."""

    def __init__(self, h: EmbeddingWitness, direction: Float[Tensor, " K"]) -> None:
        self.h, self.direction = h, direction

    def __call__(self, z: Float[Tensor, "n K"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        return -clamped_exp(self.h(z))

    def grad(self, z: Float[Tensor, "n K"]) -> Float[Tensor, "n K"]:
        """Return grad f(z_i)."""
        return clamped_exp(self.h(z).clamp_max(15.0))[:, None] * -self.direction


@dataclass(frozen=True)
class TargetWitness:
    """A learned witness on a grid of noise levels.

    Attributes:
        levels: increasing noise levels, [T].
        direction: a_t of h(x, t) = <phi(x, t), a_t>, [T, K].
        reverse: see `LevelWitness`.
    """

    levels: Float[Tensor, " T"]
    direction: Float[Tensor, "T K"]
    reverse: bool = False
    file: ClassVar[str] = "target_witness.safetensors"

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        if self.levels.ndim != 1 or self.direction.ndim != 2 or len(self.levels) != len(self.direction):
            raise InputError(f"direction has shape {list(self.direction.shape)}: must be [{self.levels.numel()}, K]")
        if len(self.levels) < 2 or bool((self.levels.diff() <= 0).any()):
            raise InputError(f"levels = {self.levels.tolist()[:5]}...: must be at least 2 that increase")
        _checks.points("direction", self.direction)

    @classmethod
    @torch.no_grad()
    def of(cls, kernel: NoiseConditionalWitness, levels: Float[Tensor, " T"], reverse: bool) -> TargetWitness:
        """Read the witness off a trained kernel."""
        levels = levels.to(kernel.read_out.weight)
        return cls(levels, kernel.direction(levels), reverse)

    @property
    def t_range(self) -> tuple[float, float]:
        """The lowest and the highest noise level."""
        return float(self.levels[0]), float(self.levels[-1])

    @property
    def num_classes(self) -> int:
        """No classes."""
        return 0

    @property
    def class_shares(self) -> Float[Tensor, " C"]:
        """None."""
        return self.levels.new_empty(0)

    @property
    def whitenable(self) -> bool:
        """No: there are no features of the data to whiten by."""
        return False

    def check(self, kernel: NoiseConditionalKernel) -> None:
        """Raise InputError for features of another number."""
        check_width(kernel, self.direction.shape[1])

    def level(self, kernel: NoiseConditionalKernel, t: float, chunk_size: int | None = None) -> LevelWitness:
        """Return the witness at level t, linear in t between the grid's levels."""
        i, weight = grid_position(self.levels, t)
        return LevelWitness(torch.lerp(self.direction[i], self.direction[i + 1], weight), self.reverse)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that make it."""
        return {"levels": self.levels, "direction": self.direction, "reverse": torch.tensor(self.reverse)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], schedule: Schedule) -> TargetWitness:
        """Return the witness of `tensors` again; it does not depend on the schedule."""
        return cls(tensors["levels"], tensors["direction"], bool(tensors["reverse"]))

    def to(self, device: torch.device | str) -> TargetWitness:
        """Return it on a device."""
        return replace(self, levels=self.levels.to(device), direction=self.direction.to(device))
