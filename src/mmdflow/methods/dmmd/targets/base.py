"""One noise level of a sampling run: what is known of the target there, and the divergence that particles flow down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow._tensors import along
from mmdflow.divergences import MMD, Divergence, PotentialEnergy
from mmdflow.divergences.witness import EmbeddingWitness, KernelWitness, Witness
from mmdflow.errors import InputError
from mmdflow.kernels import Deep, Kernel, Linear

#: Flows at a level. single: the exact flow of each particle on its own, as the final steps of a-DMMD-e use.
FLOWS = ("exact", "approximate", "single")


@runtime_checkable
class TargetLevel(Protocol):
    """What a target is on the features of one noise level. `shares` mixes its classes, [C]; None takes all data as it is."""

    def flow(self, kind: str, shares: Float[Tensor, " C"] | None = None, whitening: float = math.inf) -> Divergence:
        """Return the divergence on features, events [K], of one of `FLOWS`."""
        ...

    def mismatch(self, phi: Float[Tensor, "n K"], shares: Float[Tensor, " C"] | None = None) -> tuple[float, float]:
        """Return the MMD^2 of features to the noised data, and the MMD^2 between noised and clean data."""
        ...


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
        witness_norm: see `NoiseConditionalKernel`.
    """

    base: Kernel
    clean: Float[Tensor, " K"]
    noisy: Float[Tensor, " K"]
    class_clean: Float[Tensor, "C K"] | None = None
    class_noisy: Float[Tensor, "C K"] | None = None
    covariance: Float[Tensor, "K K"] | None = None
    witness_norm: float | None = None

    def flow(self, kind: str, shares: Float[Tensor, " C"] | None = None, whitening: float = math.inf) -> Divergence:
        """Return the divergence on features of one of `FLOWS`."""
        clean, noisy = self._means(shares)
        base = self.base
        change = self._change(whitening)
        if change is not None:
            base, clean, noisy = (
                Deep(Linear(), lambda phi: self.base.embed(phi) @ change),
                clean @ change,
                noisy @ change,
            )
        if kind == "exact":
            return MMD.from_mean_embedding(clean, base)
        if kind == "approximate":
            return PotentialEnergy(EmbeddingWitness(base, noisy - clean))
        return PotentialEnergy(Alone(base, EmbeddingWitness(base, clean)))

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

    def _change(self, whitening: float) -> Float[Tensor, "K K"] | None:
        """Return what psi is multiplied by, for whitened witnesses and for those of a given norm."""
        root = self._whitener(whitening) if math.isfinite(whitening) else None
        if self.witness_norm is None:
            return root
        root = torch.eye(len(self.clean)).to(self.clean) if root is None else root
        norm = ((self.noisy - self.clean) @ root).norm().clamp_min(torch.finfo(root.dtype).tiny)
        return root * (self.witness_norm / norm).sqrt()

    def _whitener(self, whitening: float) -> Tensor:
        """Return the symmetric root of lambda s (C + lambda s I)^-1, s = tr C / K."""
        assert self.covariance is not None
        values, vectors = torch.linalg.eigh(self.covariance.cpu().double())
        values = values.clamp_min(0)
        ridge = whitening * float(values.mean())
        shrink = (ridge / (values + ridge)).sqrt() if ridge > 0 else torch.ones_like(values)
        return ((vectors * shrink) @ vectors.T).to(self.clean)


@dataclass(frozen=True)
class LevelSamples:
    """A target known by the features of reference samples, for any base kernel (DMMD paper, eq. 10).

    Attributes:
        base: the kernel on features.
        clean: features of the clean references, [N, K].
        noisy: features of the noised references, [N, K].
        labels: their classes, [N], or None.
    """

    base: Kernel
    clean: Float[Tensor, "N K"]
    noisy: Float[Tensor, "N K"]
    labels: Int[Tensor, " N"] | None = None

    def flow(self, kind: str, shares: Float[Tensor, " C"] | None = None, whitening: float = math.inf) -> Divergence:
        """Return the divergence on features of one of `FLOWS`."""
        clean, noisy, weights = self._weighted(shares)
        if kind == "exact":
            return MMD(clean, self.base, target_weights=weights)
        if kind == "approximate":
            return PotentialEnergy(KernelWitness(self.base, torch.cat([noisy, clean]), torch.cat([weights, -weights])))
        return PotentialEnergy(Alone(self.base, KernelWitness(self.base, clean, weights)))

    def mismatch(self, phi: Float[Tensor, "n K"], shares: Float[Tensor, " C"] | None = None) -> tuple[float, float]:
        """Return the V-statistics MMD^2(phi, noisy) and MMD^2(noisy, clean)."""
        clean, noisy, weights = self._weighted(shares)
        to_noisy = MMD(noisy, self.base, target_weights=weights)
        return float(2 * to_noisy(phi)), float(2 * to_noisy(clean, weights))

    def _weighted(self, shares: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if shares is None:
            return self.clean, self.noisy, self.clean.new_full((len(self.clean),), 1 / len(self.clean))
        assert self.labels is not None
        weights = (shares.to(self.clean) / self.labels.bincount(minlength=len(shares)))[self.labels]
        used = weights > 0
        return self.clean[used], self.noisy[used], weights[used] / weights.sum()


class Alone:
    """V(z) = k(z, z) / 2 - E_mu k(z, y): up to a constant, 1/2 MMD^2 of one particle to the target."""

    def __init__(self, kernel: Kernel, attraction: Witness) -> None:
        self.kernel, self.attraction = kernel, attraction

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return V(z_i)."""
        return self.kernel.diag(z) / 2 - self.attraction(z)

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad V(z_i)."""
        with torch.enable_grad():
            x = z.detach().requires_grad_()
            own = self.kernel.diag(x).sum() / 2 + 0 * x.sum()  # radial kernels: a constant
        return torch.autograd.grad(own, x)[0] - self.attraction.grad(z)


class Grouped(Divergence):
    """Particles of every class flow as a group of their own: F = sum_c n_c/n F_c, guided away from all data's flow.

    (1 + guidance) sum_c n_c/n F_c(class c) - guidance F(all), as classifier-free guidance does with scores
    (Ho and Salimans 2022).

    Args:
        members: F_c of every class.
        labels: the particles' classes, [n].
        everything: F of all data; needed for guidance.
        guidance: 0 for none.
    """

    def __init__(
        self, members: dict[int, Divergence], labels: Int[Tensor, " n"], everything: Divergence | None, guidance: float
    ) -> None:
        super().__init__()
        self.members, self.labels, self.everything, self.guidance = members, labels, everything, guidance

    def part(self, rows: slice) -> Grouped:
        """Return the divergence of some of the particles, where they do not see each other."""
        return Grouped(self.members, self.labels[rows], self.everything, self.guidance)

    def forward(self, x: Float[Tensor, "n K"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F; particles have equal weights."""
        groups = [(member, self.labels == c) for c, member in self.members.items()]
        parts = [int(rows.sum()) / len(x) * member(x[rows]) for member, rows in groups if bool(rows.any())]
        total = (1 + self.guidance) * torch.stack(parts).sum()
        return total if self.everything is None else total - self.guidance * self.everything(x)

    def velocity(
        self,
        x: Float[Tensor, "n K"],
        at: Float[Tensor, "k K"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n K"]:
        """Return -grad f of every particle's own witness; `at` holds as many points as there are particles."""
        velocity = torch.empty_like(x)
        for c, member in self.members.items():
            rows = self.labels == c
            if bool(rows.any()):
                velocity[rows] = member.velocity(x[rows], None if at is None else at[rows])
        if self.everything is None:
            return velocity
        return (1 + self.guidance) * velocity - self.guidance * self.everything.velocity(x, at)


class LevelDivergence(Divergence):
    """F(nu) = G(phi_t # nu): a divergence on the features of a noise level, pulled back to events.

    Args:
        features: phi(., t).
        inner: G, on events [K].
        interacting: whether particles see each other in G. Then its velocity needs all features at once: with several chunks
            they are computed twice, first without gradients.
        event_shape: the shape of an event.
        chunk_size: particles whose gradient is taken at once; all by default.
        max_slope: bound on |grad f|; longer gradients are shortened to it.
        watch: called after each velocity with the particles' features and slopes, [n, K] and [n].
    """

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        inner: Divergence,
        *,
        interacting: bool,
        event_shape: tuple[int, ...] | None = None,
        chunk_size: int | None = None,
        max_slope: float | None = None,
        watch: Callable[[Tensor, Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.features, self.inner, self.interacting, self.event_shape = features, inner, interacting, event_shape
        self.chunk_size, self.max_slope, self.watch = chunk_size, max_slope, watch

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F at the particles."""
        return self.inner(self.features(x), weights)

    def velocity(
        self,
        x: Float[Tensor, "n *event"],
        at: Float[Tensor, "k *event"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "k *event"]:
        """Return -grad f at the particles, chunk by chunk, no longer than `max_slope`."""
        if at is not None or weights is not None:
            raise InputError("at or weights: samplers evaluate equally weighted particles where they are")
        size = self.chunk_size or len(x)
        parts = x.split(size)
        cotangents: Sequence[Tensor] | None = None
        if self.interacting and len(parts) > 1:
            with torch.no_grad():
                phi = torch.cat([self.features(part) for part in parts])
            cotangents = self.inner.velocity(phi).split(size)
        seen, velocities = [], []
        for i, part in enumerate(parts):
            with torch.enable_grad():
                z = part.detach().requires_grad_()
                phi_z = self.features(z)
            seen.append(phi_z.detach())
            if cotangents is None:
                inner = self.inner
                if isinstance(inner, Grouped) and len(parts) > 1:
                    inner = inner.part(slice(i * size, (i + 1) * size))
                cotangent = inner.velocity(seen[-1])
            else:
                cotangent = cotangents[i]
            velocities.append(torch.autograd.grad(phi_z, z, cotangent)[0])
        velocity = torch.cat(velocities)
        if self.max_slope is None and self.watch is None:
            return velocity
        slope = velocity.flatten(1).norm(dim=1)
        if self.watch is not None:
            self.watch(torch.cat(seen), slope)
        if self.max_slope is None:
            return velocity
        return velocity * along((self.max_slope / slope).clamp_max(1), velocity)


def features_at(features: Callable[[Tensor, Tensor], Tensor], t: float) -> Callable[[Tensor], Tensor]:
    """Return phi(., t) of phi(x, t)."""
    return lambda x: features(x, x.new_full((len(x),), t))


def level_flow(
    target: TargetLevel,
    kind: str,
    labels: Int[Tensor, " n"] | None = None,
    num_classes: int = 0,
    guidance: float = 0.0,
    whitening: float = math.inf,
) -> Divergence:
    """Return the divergence on features that particles, of given classes or of none, flow down."""
    if labels is None:
        return target.flow(kind, None, whitening)
    identity = torch.eye(num_classes, device=labels.device)
    members = {c: target.flow(kind, identity[c], whitening) for c in labels.unique().tolist()}
    everything = target.flow(kind, None, whitening) if guidance else None
    return Grouped(members, labels, everything, guidance)


def check_classes(labels: Int[Tensor, " N"]) -> int:
    """Return the number of classes of a target's labels; raise InputError unless they are 0, 1, ... with an event of each."""
    counts = labels.bincount() if bool((labels >= 0).all()) else labels.new_zeros(1)
    if bool((counts == 0).any()):
        raise InputError(f"labels have {counts.tolist()[:20]} events a class: must be 0, 1, ... with an event of each")
    return len(counts)
