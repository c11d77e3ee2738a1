"""Mean features of the data at every noise level, which the samplers need beside the weights (DMMD paper, eq. 12-13)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from mmdflow import _checks
from mmdflow._tensors import normal_like
from mmdflow.divergences import MMD, Divergence, PotentialEnergy
from mmdflow.divergences.witness import EmbeddingWitness
from mmdflow.errors import InputError
from mmdflow.kernels import Deep, Kernel, Linear
from mmdflow.methods.dmmd.targets.base import (
    FlowKind,
    LevelFlow,
    SingleParticle,
    check_classes,
    check_width,
    grid_position,
)
from mmdflow.noise import NoiseConditionalKernel, Schedule


@dataclass(frozen=True)
class LevelMeans:
    """A target known by its mean embeddings, for base kernels with a finite feature map psi (DMMD paper, eq. 12-13).

    Attributes:
        base: the kernel on features.
        clean: mean psi of clean data, [K].
        noisy: mean psi of noised data, [K].
        class_clean: the same of every class, [C, K], or None.
        class_noisy: the same of every class, [C, K], or None.
        covariance: of clean data's psi, [K, K], or None.
    """

    base: Kernel
    clean: Float[Tensor, " K"]
    noisy: Float[Tensor, " K"]
    class_clean: Float[Tensor, "C K"] | None = None
    class_noisy: Float[Tensor, "C K"] | None = None
    covariance: Float[Tensor, "K K"] | None = None

    def field(self, flow: LevelFlow, shares: Float[Tensor, " C"] | None = None) -> Divergence:
        """Return the divergence on features whose flow is of that kind.

        EXACT is 1/2 MMD^2 to the clean mean, or, with feedback w, w times that to clean / w + (1 - 1 / w) noisy. APPROXIMATE is
        the potential <psi, noisy - clean>; SINGLE is 1/2 MMD^2 of a particle on its own. `whitening` transforms psi first.
        """
        clean, noisy = self._means(shares)
        base = self.base
        if math.isfinite(flow.whitening):
            transform = self._whitener(flow.whitening)
            base, clean, noisy = (
                Deep(Linear(), lambda phi: self.base.embed(phi) @ transform),
                clean @ transform,
                noisy @ transform,
            )
        w = flow.feedback
        if flow.kind is FlowKind.EXACT and w == 1:
            return MMD.from_mean_embedding(clean, base)
        if flow.kind is FlowKind.EXACT:
            return MMD.from_mean_embedding(math.sqrt(w) * torch.lerp(noisy, clean, 1 / w), w * base)
        if flow.kind is FlowKind.APPROXIMATE:
            return PotentialEnergy(EmbeddingWitness(base, noisy - clean))
        return PotentialEnergy(SingleParticle(base, EmbeddingWitness(base, clean)))

    def mismatch(self, phi: Float[Tensor, "n K"], shares: Float[Tensor, " C"] | None = None) -> tuple[float, float]:
        """Return |mean psi(Z) - noisy|^2 and |noisy - clean|^2."""
        clean, noisy = self._means(shares)
        return (
            float((self.base.embed(phi).mean(0) - noisy).square().sum()),
            float((noisy - clean).square().sum()),
        )

    def _means(self, shares: Tensor | None) -> tuple[Tensor, Tensor]:
        if shares is None:
            return self.clean, self.noisy
        assert self.class_clean is not None
        assert self.class_noisy is not None
        shares = shares.to(self.clean)
        return shares @ self.class_clean, shares @ self.class_noisy

    def _whitener(self, whitening: float) -> Tensor:
        """Return the symmetric root of lambda s (C + lambda s I)^-1, s = tr C / K."""
        assert self.covariance is not None
        values, vectors = torch.linalg.eigh(self.covariance.cpu().double())
        values = values.clamp_min(0)
        ridge = whitening * float(values.mean())
        shrink = (ridge / (values + ridge)).sqrt() if ridge > 0 else torch.ones_like(values)
        return ((vectors * shrink) @ vectors.T).to(self.clean)


@dataclass(frozen=True)
class TargetMeans:
    """Mean embeddings of clean and of noised data on a grid of noise levels.

    Attributes:
        levels: increasing noise levels, [T].
        clean: mean psi(x_0, t), [T, K].
        noisy: mean psi(x_t, t), [T, K].
        class_clean: mean psi(x_0, t) of every class, [C, T, K], or None.
        class_noisy: mean psi(x_t, t) of every class, [C, T, K], or None.
        covariance: covariance of psi(x_0, t), [T, K, K], for whitened witnesses, or None.
    """

    levels: Float[Tensor, " T"]
    clean: Float[Tensor, "T K"]
    noisy: Float[Tensor, "T K"]
    class_clean: Float[Tensor, "C T K"] | None = None
    class_noisy: Float[Tensor, "C T K"] | None = None
    covariance: Float[Tensor, "T K K"] | None = None
    file: ClassVar[str] = "target_means.safetensors"

    def __post_init__(self) -> None:
        """Check shapes, order and finiteness."""
        shapes = [list(m.shape) for m in (self.levels, self.clean, self.noisy)]
        if len(shapes[0]) != 1 or len(shapes[1]) != 2 or shapes[1] != shapes[2] or shapes[0][0] != shapes[1][0]:
            raise InputError(f"target means have shapes {shapes}: must be [T], [T, K] and [T, K]")
        of_classes = [None if m is None else list(m.shape) for m in (self.class_clean, self.class_noisy)]
        if of_classes[0] != of_classes[1] or (of_classes[0] is not None and of_classes[0][1:] != shapes[1]):
            raise InputError(f"target means of classes have shapes {of_classes}: must both be [C, T, K], or both None")
        if self.covariance is not None and list(self.covariance.shape) != [*shapes[1], shapes[1][1]]:
            raise InputError(f"target covariances have shape {list(self.covariance.shape)}: must be [T, K, K]")
        if bool((self.levels.diff() <= 0).any()):
            raise InputError(f"levels = {self.levels.tolist()[:5]}...: must increase")
        for field, value in self.tensors().items():
            if not _checks.all_finite(value):
                raise InputError(f"target means: {field} holds NaN or infinite entries")

    @property
    def t_range(self) -> tuple[float, float]:
        """The lowest and the highest noise level."""
        return float(self.levels[0]), float(self.levels[-1])

    @property
    def num_classes(self) -> int:
        """The classes with means of their own, C; 0 for none."""
        return 0 if self.class_clean is None else len(self.class_clean)

    @property
    def class_shares(self) -> Float[Tensor, " C"]:
        """The share of every class in the data, by which the means of classes mix to those of all; empty for no classes."""
        if self.class_clean is None or self.class_noisy is None:
            return self.clean.new_empty(0)
        of_classes = torch.cat([self.class_clean.flatten(1), self.class_noisy.flatten(1)], 1).double().T
        of_all = torch.cat([self.clean.flatten(), self.noisy.flatten()]).double()
        shares = torch.linalg.lstsq(of_classes, of_all[:, None]).solution[:, 0].clamp_min(0)
        return (shares / shares.sum()).to(self.clean)

    @property
    def whitenable(self) -> bool:
        """Whether there are covariances."""
        return self.covariance is not None

    def at(self, t: float) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
        """Return the clean and the noisy mean at level t: as stored on the grid, linear in t between.

        Raises:
            InputError: if t lies outside the grid.
        """
        i, weight = grid_position(self.levels, t)
        return torch.lerp(self.clean[i], self.clean[i + 1], weight), torch.lerp(
            self.noisy[i], self.noisy[i + 1], weight
        )

    def level(self, kernel: NoiseConditionalKernel, t: float, chunk_size: int | None = None) -> LevelMeans:
        """Return what is known at level t, through the kernel's base; `chunk_size` is for targets that embed samples."""
        position = grid_position(self.levels, t)
        clean, noisy = self.at(t)
        return LevelMeans(
            kernel.base_at(torch.as_tensor(t)),
            clean,
            noisy,
            _between(self.class_clean, 1, *position),
            _between(self.class_noisy, 1, *position),
            _between(self.covariance, 0, *position),
        )

    def check(self, kernel: NoiseConditionalKernel) -> None:
        """Raise InputError for a base kernel with no finite feature map, or features of another number."""
        if not kernel.base.finite:
            raise InputError(
                f"target means with base kernel {type(kernel.base).__name__}: must be TargetSamples; it has no finite "
                f"feature map"
            )
        check_width(kernel, self.clean.shape[1])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], schedule: Schedule) -> TargetMeans:
        """Return the means of `tensors` again; they do not depend on the schedule any more."""
        return cls(**tensors)

    def to(self, device: torch.device | str) -> TargetMeans:
        """Return the means on a device."""
        return TargetMeans(**{name: value.to(device) for name, value in self.tensors().items()})


@torch.no_grad()
def target_means(
    kernel: NoiseConditionalKernel,
    schedule: Schedule,
    batches: Iterable[Tensor],
    levels: Float[Tensor, " T"],
    *,
    noise_repeats: int = 1,
    labels: Int[Tensor, " N"] | None = None,
    covariances: bool = False,
    generator: torch.Generator | None = None,
    callback: Callable[[int], object] | None = None,
) -> TargetMeans:
    """Stream the data once and return its mean embeddings at every level, accumulated in float64.

    Args:
        kernel: the noise-conditional kernel; its base must have a finite feature map (linear).
        schedule: the forward diffusion.
        batches: the data, in batches [n, *event].
        levels: increasing noise levels in [0, 1], [T].
        noise_repeats: draws of noise an event; the same draws serve every level, so that the means are smooth in t.
        labels: classes 0, 1, ... of the data in the order of the batches, for means of every class.
        covariances: whether to keep the covariance of clean features, for whitened witnesses.
        generator: of the noise.
        callback: called with the events done after every batch.

    Raises:
        InputError: for a base kernel with no finite feature map, levels that do not increase, no data, or labels that do not
            belong to it.
    """
    _checks.count("noise_repeats", noise_repeats)
    members = None if labels is None else one_hot(labels.cpu().long(), check_classes(labels)).double()
    count, totals = 0, dict[str, Tensor]()
    for batch in batches:
        members_here = None if members is None else members[count : count + len(batch)]
        if members is not None and count + len(batch) > len(members):
            raise InputError(f"labels are {len(members)} in number: must be one an event; there are more events")
        noises = [normal_like(batch, generator) for _ in range(noise_repeats)]
        rows = []
        for t in levels:
            k = kernel.at(t)
            level = t.to(batch).expand(len(batch))
            noised = [_embed(k, schedule.add_noise(batch, e, level)) for e in noises]
            rows.append(_sums(_embed(k, batch), torch.stack(noised).mean(0), members_here, covariances))
        for name in rows[0]:
            new = torch.stack([row[name] for row in rows], 1 if name.startswith("class") else 0)
            totals[name] = totals.get(name, 0) + new
        count += len(batch)
        like = batch
        if callback is not None:
            callback(count)
    if count == 0:
        raise InputError("batches is empty: must hold at least one batch of data")
    if members is not None and len(members) != count:
        raise InputError(f"labels are {len(members)} in number: must be {count}, one an event")
    means = {name: total / count for name, total in totals.items()}
    if members is not None:
        shares = members.mean(0)[:, None, None]
        means |= {name: means[name] / shares for name in ("class_clean", "class_noisy")}
    if covariances:
        means["covariance"] = means["covariance"] - means["clean"][:, :, None] * means["clean"][:, None]
    return TargetMeans(levels.to(like.device), **{name: value.to(like) for name, value in means.items()})


def _sums(
    clean: Float[Tensor, "n K"], noisy: Float[Tensor, "n K"], members: Float[Tensor, "n C"] | None, covariances: bool
) -> dict[str, Tensor]:
    """Return the sums over events that `TargetMeans` is made of, at one level."""
    sums = {"clean": clean.sum(0), "noisy": noisy.sum(0)}
    if members is not None:
        sums |= {"class_clean": members.T @ clean, "class_noisy": members.T @ noisy}
    if covariances:
        sums["covariance"] = clean.T @ clean
    return sums


def _between(x: Tensor | None, dim: int, i: int, weight: float) -> Tensor | None:
    """Return what lies `weight` of the way from entry i to entry i + 1 of a dimension."""
    return None if x is None else torch.lerp(x.select(dim, i), x.select(dim, i + 1), weight)


def _embed(kernel: Kernel, x: Tensor) -> Tensor:
    if not kernel.finite:
        raise InputError(
            "the base kernel has no finite feature map: target means need a linear base kernel (others take TargetSamples)"
        )
    return kernel.embed(x).cpu().double()  # not every device has float64
