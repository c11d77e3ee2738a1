"""What a target is at one noise level: whitening, classes, reference samples, chunks."""

import math

import pytest
import torch

from mmdflow import Gaussian, InputError, Linear, LinearSchedule, NoiseConditionalKernel, RationalQuadratic
from mmdflow.features import MLPFeatures
from mmdflow.kernels import base_config, base_kernel
from mmdflow.methods.dmmd import (
    FlowKind,
    LevelField,
    LevelFlow,
    PerClass,
    Recorder,
    TargetMeans,
    TargetSamples,
    target_means,
)
from mmdflow.methods.dmmd.fields import features_at, field_on_features
from mmdflow.methods.dmmd.targets.means import LevelMeans
from tests.methods.dmmd.runs import walk_down

SCHEDULE = LinearSchedule()
LEVELS = torch.linspace(0.1, 1.0, 4, dtype=torch.float64)
RUN = {"levels": (0.9, 0.5, 0.2), "step_sizes": (0.3, 0.2, 0.1)}
FINAL = {"final_steps": 2, "final_step_size": 0.4, "final_level": 0.3}
FLOWS = [("exact", None), ("approximate", None), ("approximate", "exact"), ("exact", "approximate")]


def data(n=40, seed=0):
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 1


def kernel(base=None):
    torch.manual_seed(0)
    return NoiseConditionalKernel(MLPFeatures((3,), 4, width=16, depth=1).double().requires_grad_(False), base)


def classes(n=40, count=3):
    return torch.arange(n) % count


def means(k, **settings):
    return target_means(k, SCHEDULE, data().split(25), LEVELS, generator=torch.Generator().manual_seed(3), **settings)


def references(n=40, **settings):
    return TargetSamples.draw(data(n), SCHEDULE, t_min=0.1, generator=torch.Generator().manual_seed(3), **settings)


class Plain(Linear):
    """The linear kernel as one without a finite feature map, so that it goes the general way."""

    finite = False


@pytest.mark.parametrize(("sampler", "final"), FLOWS)
def test_references_with_a_linear_kernel_agree_with_the_means(sampler, final):
    """DMMD paper, eq. 10 and eq. 12: the means of as many references, with the same noise."""
    exact_levels = torch.tensor([0.2, 0.3, 0.5, 0.9], dtype=torch.float64)  # no interpolation
    fast, refs, z = kernel(), references(), data(6, seed=5)
    noises = refs.noise
    rows = [
        [fast.features(x, t.expand(40)).mean(0) for t in exact_levels for x in [refs.clean]],
        [
            fast.features(SCHEDULE.add_noise(refs.clean, noises, t.expand(40)), t.expand(40)).mean(0)
            for t in exact_levels
        ],
    ]
    known = TargetMeans(exact_levels, *(torch.stack(r) for r in rows))
    how = {"sampler": sampler, "final_sampler": final, **RUN, **FINAL}
    quick, nfe = walk_down(fast, known, z, **how)
    for general in (kernel(Plain()), kernel(Linear())):
        slow, nfe_slow = walk_down(general, refs, z, **how)
        torch.testing.assert_close(slow, quick, rtol=1e-10, atol=1e-10)
        assert nfe_slow == nfe


@pytest.mark.parametrize("shares", [None, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)])
@pytest.mark.parametrize("base", [Linear(), Gaussian(2.0)], ids=["means", "references"])
def test_feedback_weighs_the_way_of_the_particles_to_the_noised_data(base, shares):
    """w (p - (c / w + (1 - 1 / w) n)) = (n - c) + w (p - n), and w = 1 is the exact flow to the last bit."""
    k, phi = kernel(base), data(6, seed=5)[:, [0, 1, 2, 0]]
    target = means(k, labels=classes()) if k.base.finite else references(labels=classes())
    level = target.level(k, 0.4)
    exact, approximate = (level.field(LevelFlow(kind), shares) for kind in (FlowKind.EXACT, FlowKind.APPROXIMATE))
    assert torch.equal(level.field(LevelFlow(FlowKind.EXACT, feedback=1.0), shares).velocity(phi), exact.velocity(phi))
    along = approximate.velocity(phi)
    towards_noised = exact.velocity(phi) - along
    for w in (1.5, 4.0):
        found = level.field(LevelFlow(FlowKind.EXACT, feedback=w), shares)
        torch.testing.assert_close(found.velocity(phi), along + w * towards_noised, rtol=1e-9, atol=1e-11)
        x = phi.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(found(x), x)
        torch.testing.assert_close(-len(x) * gradient, found.velocity(phi), rtol=1e-9, atol=1e-11)


def test_feedback_is_of_the_exact_walk_alone():
    k = kernel()
    target, z = means(k), data(6, seed=5)
    runs = {w: walk_down(k, target, z, feedback=w, **RUN)[0] for w in (1.0, 3.0)}
    assert float((runs[1.0] - runs[3.0]).norm()) > 1e-3
    how = {"levels": (0.9,), "step_sizes": (0.0,), **FINAL}  # the final steps alone
    for changes in ({"sampler": "approximate", **RUN}, {"final_sampler": "exact", **how}):
        plain, braked = (walk_down(k, target, z, feedback=w, **changes)[0] for w in (1.0, 3.0))
        assert torch.equal(plain, braked)


def test_exact_sampler_with_a_gaussian_base_is_equation_10():
    base = Gaussian(2.0) + RationalQuadratic(0.5, 3.0) + 0.1 * Linear()
    k, refs, z = kernel(base), references(), data(6, seed=5)
    t, level = 0.5, torch.full((6,), 0.5, dtype=torch.float64)
    out, _ = walk_down(k, refs, z, levels=(t,), step_sizes=(0.3,))
    x = z.clone().requires_grad_()
    frozen, clean = k.features(z, level), k.features(refs.clean, torch.full((40,), t, dtype=torch.float64))
    phi = k.features(x, level)
    f = base(phi, frozen).mean(1) - base(phi, clean).mean(1)
    torch.testing.assert_close(out, z - 0.3 * torch.autograd.grad(f.sum(), x)[0], rtol=1e-10, atol=1e-12)
    alone, _ = walk_down(k, refs, z[:1], levels=(t,), step_sizes=(0.3,))
    single = {"sampler": "approximate", "final_sampler": "exact", "final_steps": 1, "final_step_size": 0.3}
    torch.testing.assert_close(
        walk_down(k, refs, z, levels=(t,), step_sizes=(1e-300,), **single)[0][:1], alone, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(("sampler", "final"), FLOWS)
@pytest.mark.parametrize("chunk", [1, 4])
def test_chunks_change_nothing(sampler, final, chunk):
    k, z = kernel(), data(6, seed=5)
    target = means(k, labels=classes(), covariances=True)
    labels = torch.tensor([0, 2, 1, 1, 0, 0])
    how = {"sampler": sampler, "final_sampler": final, **RUN, **FINAL, "steps_per_level": 2, "max_slope": 0.5}
    for extra in ({}, {"labels": labels, "guidance": 2.0, "whitening": 0.3}):
        whole, nfe = walk_down(k, target, z, **how, **extra)
        parts, nfe_parts = walk_down(k, target, z, **how, **extra, chunk_size=chunk)
        torch.testing.assert_close(parts, whole, rtol=1e-11, atol=1e-12)
        assert nfe_parts == nfe == 8
    general = kernel(Gaussian(1.0))
    whole, _ = walk_down(general, references(), z, **how)
    torch.testing.assert_close(
        walk_down(general, references(), z, **how, chunk_size=chunk)[0], whole, rtol=1e-11, atol=1e-12
    )


def test_one_at_a_time_does_not_depend_on_batch_mates():
    k, z = kernel(), data(6, seed=5)
    target = means(k)
    together, _ = walk_down(k, target, z, sampler="approximate", chunk_size=1, **RUN)
    others = torch.cat([z[:2], data(4, seed=9) * 50])
    mixed, _ = walk_down(k, target, others, sampler="approximate", chunk_size=1, **RUN)
    assert torch.equal(together[:2], mixed[:2])


def test_means_of_classes_are_the_means_of_their_events():
    k, labels = kernel(), classes()
    target = means(k, labels=labels)
    for c in range(3):
        events = data()[labels == c]
        expected = torch.stack([k.features(events, t.expand(len(events))).mean(0) for t in LEVELS])
        torch.testing.assert_close(target.class_clean[c], expected)
    counts = labels.bincount() / len(labels)
    torch.testing.assert_close(torch.einsum("c,ctk->tk", counts.double(), target.class_noisy), target.noisy)


@pytest.mark.parametrize("sampler", ["exact", "approximate"])
def test_every_class_is_a_group_of_its_own(sampler):
    k, z, labels = kernel(), data(6, seed=5), torch.tensor([0, 2, 0, 1, 1, 0])
    target = means(k, labels=classes())
    out, _ = walk_down(k, target, z, labels=labels, sampler=sampler, **RUN)
    for c in range(3):
        only = TargetMeans(LEVELS, target.class_clean[c], target.class_noisy[c])
        torch.testing.assert_close(out[labels == c], walk_down(k, only, z[labels == c], sampler=sampler, **RUN)[0])
    refs = references(labels=classes())
    out, _ = walk_down(k, refs, z, labels=labels, sampler=sampler, **RUN)
    mine = classes() == 1
    only = TargetSamples(refs.clean[mine], refs.noise[mine], SCHEDULE, 0.1)
    torch.testing.assert_close(out[labels == 1], walk_down(k, only, z[labels == 1], sampler=sampler, **RUN)[0])


@pytest.mark.parametrize("kind", ["exact", "approximate", "single"])
def test_guided_groups_obey_the_law(kind):
    """n dF/dx_i = grad f(x_i) for classes, guidance and whitening together, through the features."""
    k, z, labels = kernel(), data(6, seed=5), torch.tensor([0, 2, 0, 1, 1, 0])
    here = means(k, labels=classes(), covariances=True).level(k, 0.45)
    kind = FlowKind(kind)
    inner = field_on_features(here, LevelFlow(kind, whitening=0.2), labels, num_classes=3, guidance=1.5)
    assert isinstance(inner, PerClass)
    field = LevelField(features_at(k.features, 0.45), inner, interacting=kind.interacting)
    x = z.clone().requires_grad_()
    phi = k.features(x, x.new_full((6,), 0.45))
    of_classes = [int((labels == c).sum()) / 6 * inner.fields[c](phi[labels == c]) for c in range(3)]
    slope = 6 * torch.autograd.grad(2.5 * sum(of_classes) - 1.5 * inner.of_all(phi), x)[0]
    torch.testing.assert_close(-field.velocity(z), slope, rtol=1e-9, atol=1e-11)


def test_no_guidance_and_one_class_are_the_plain_flow():
    k, z = kernel(), data(6, seed=5)
    target = means(k, labels=classes(count=1))
    plain, _ = walk_down(k, target, z, **RUN)
    labels = torch.zeros(6, dtype=torch.long)
    torch.testing.assert_close(walk_down(k, target, z, labels=labels, guidance=3.0, **RUN)[0], plain)


def test_covariances_are_those_of_the_clean_features():
    k = kernel()
    target = means(k, covariances=True)
    phi = k.features(data(), LEVELS[2].expand(40))
    torch.testing.assert_close(target.covariance[2], torch.cov(phi.T, correction=0))


def test_whitening_in_closed_form():
    """f = psi^T lambda s (C + lambda s I)^-1 (mean difference), and its two limits."""
    torch.manual_seed(1)
    root = torch.randn(4, 4, dtype=torch.float64)
    covariance = root @ root.T
    clean, noisy, phi = torch.randn(3, 4, dtype=torch.float64)
    here = LevelMeans(Linear(), clean, noisy, covariance=covariance)
    difference, scale = noisy - clean, covariance.trace() / 4

    def slope(lam):
        return -here.field(LevelFlow(FlowKind.APPROXIMATE, whitening=lam)).velocity(phi[None])[0]

    for lam in (1e-2, 1.0, 30.0):
        ridge = lam * scale * torch.eye(4, dtype=torch.float64)
        torch.testing.assert_close(slope(lam), lam * scale * torch.linalg.solve(covariance + ridge, difference))
    torch.testing.assert_close(slope(1e12), difference)
    torch.testing.assert_close(slope(math.inf), difference)
    tiny = 1e-9
    torch.testing.assert_close(
        slope(tiny) / tiny, scale * torch.linalg.solve(covariance, difference), rtol=1e-6, atol=0
    )


def test_monitor_is_what_it_says_and_costs_nothing():
    k, z = kernel(), data(30, seed=5)
    target = means(k)
    how = {**RUN, **FINAL, "steps_per_level": 2, "integrator": "heun", "max_slope": 0.6}
    recorder = Recorder()
    out, nfe = walk_down(k, target, z, recorder=recorder, **how)
    unwatched, nfe_unwatched = walk_down(k, target, z, **how)
    assert torch.equal(out, unwatched)
    assert nfe == nfe_unwatched == 3 * 2 * 2 + 2
    monitor = recorder.result()
    assert monitor.levels.tolist() == pytest.approx([0.9, 0.5, 0.2])
    clean, noisy = target.at(0.9)
    phi = k.features(z, torch.full((30,), 0.9, dtype=torch.float64))
    assert monitor.mismatch[0].item() == pytest.approx(float((phi.mean(0) - noisy).square().sum()), rel=1e-5)
    ratio = float((phi.mean(0) - noisy).square().sum() / (noisy - clean).square().sum())
    assert monitor.relative_mismatch[0].item() == pytest.approx(ratio, rel=1e-5)
    covariance = torch.cov(phi.T)
    participation = float(covariance.trace() ** 2 / covariance.square().sum())
    assert monitor.participation[0].item() == pytest.approx(participation, rel=1e-5)
    exact = target.level(k, 0.9).field(LevelFlow(FlowKind.EXACT))
    first = LevelField(features_at(k.features, 0.9), exact, interacting=True)
    recorder = Recorder()
    walk_down(k, target, z, recorder=recorder, levels=(0.9,), step_sizes=(0.1,), max_slope=0.6)
    slopes = first.velocity(z).norm(dim=1)
    assert recorder.result().slope.item() == pytest.approx(slopes.mean().item(), rel=1e-5)
    assert recorder.result().limited.item() == pytest.approx((slopes > 0.6).double().mean().item())
    assert 0 < recorder.result().limited.item() < 1


@pytest.mark.parametrize("base", [None, Gaussian(1.0)])
def test_monitor_of_particles_that_are_the_noised_data(base):
    k, refs = kernel(base), references()
    z = SCHEDULE.add_noise(refs.clean, refs.noise, torch.full((40,), 0.5, dtype=torch.float64))
    recorder = Recorder()
    walk_down(k, refs, z, levels=(0.5,), step_sizes=(0.1,), recorder=recorder)
    assert recorder.result().mismatch.item() == pytest.approx(0, abs=1e-12)
    recorder = Recorder()
    walk_down(k, refs, refs.clean, levels=(0.5,), step_sizes=(0.1,), recorder=recorder)
    assert recorder.result().relative_mismatch.item() == pytest.approx(1.0)


def test_base_kernels_are_stored_and_read():
    mixed = Gaussian(2.0) + 0.5 * RationalQuadratic(0.1) + Linear()
    x, y = data(4), data(5, seed=2)
    for k in (Linear(), Gaussian(0.7), RationalQuadratic(2.0, 3.0), mixed):
        torch.testing.assert_close(base_kernel(base_config(k))(x, y), k(x, y))
    with pytest.raises(InputError, match="base kernel = Plain"):
        base_config(type("Plain", (Gaussian,), {})(1.0, normalized=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: means(kernel(), labels=classes(39)), "labels are 39 in number"),
        (lambda: means(kernel(), labels=classes(41)), "labels are 41 in number: must be 40"),
        (lambda: means(kernel(), labels=2 * classes()), r"labels have \[14, 0, 13"),
        (lambda: references(labels=classes(7)), r"\[40, 40, 7\] in number"),
        (lambda: references(labels=classes() - 1), "must be 0, 1, ..."),
        (lambda: TargetSamples(data(), data(), SCHEDULE, t_min=1.0), "t_min = 1.0"),
        (lambda: walk_down(kernel(), means(kernel()), data(3), whitening=1.0, **RUN), "whitening = 1: needs"),
        (lambda: walk_down(kernel(), means(kernel()), data(3), labels=classes(3), **RUN), "labels: need target means"),
        (lambda: walk_down(kernel(), references(), data(3), levels=(0.05,), step_sizes=(1.0,)), "noise level t = 0.05"),
        (lambda: means(kernel(Gaussian(1.0))), "others take TargetSamples"),
    ],
)
def test_bad_input(make, message, unchecked):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("kind", list(FlowKind))
@pytest.mark.parametrize("head", ["flat", "squared_residual", "mixed"])
def test_the_velocity_is_the_gradient_of_a_witness(head, kind):
    """The Jacobian in all particles is symmetric; a semi-gradient's would not be."""
    torch.manual_seed(0)
    features = MLPFeatures((2,), 6, head, width=16, depth=1).double()
    clean, noisy = torch.randn(2, 6, dtype=torch.float64)
    field = LevelMeans(Linear(), clean, noisy).field(LevelFlow(kind))
    on_features = {
        FlowKind.EXACT: lambda phi: (clean - phi.mean(0)).expand_as(phi),
        FlowKind.APPROXIMATE: lambda phi: (clean - noisy).expand_as(phi),
        FlowKind.SINGLE: lambda phi: clean - phi,
    }[kind]

    def velocity(z):
        x = z.view(3, 2)
        phi = features(x, torch.full((3,), 0.4, dtype=torch.float64))
        return torch.autograd.grad(phi, x, on_features(phi), create_graph=True)[0].flatten()

    z = torch.randn(6, dtype=torch.float64, requires_grad=True)
    level = LevelField(features_at(features, 0.4), field, interacting=kind.interacting)
    torch.testing.assert_close(level.velocity(z.detach().view(3, 2)).flatten(), velocity(z).detach())
    jacobian = torch.autograd.functional.jacobian(velocity, z.detach())
    torch.testing.assert_close(jacobian, jacobian.T, rtol=1e-10, atol=1e-12)
