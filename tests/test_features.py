import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmdflow import InputError
from mmdflow.features import NETWORKS, ConvFeatures, DecoderFeatures, FeatureNetwork, MLPFeatures, UNetFeatures
from mmdflow.features.decoder import Doubling

pytest.importorskip("diffusers")
CASES = [
    (MLPFeatures, (1, 8, 8), {"width": 32}),
    (MLPFeatures, (2,), {"width": 32, "depth": 3}),
    (MLPFeatures, (2,), {"width": 32, "fourier": 4}),
    (ConvFeatures, (1, 8, 8), {"channels": [8, 16]}),
    (ConvFeatures, (3, 4, 12), {"channels": [8], "blocks": 2}),
    (ConvFeatures, (3, 8, 8), {"channels": [8, 8], "patch": 2}),
    (DecoderFeatures, (1, 8, 8), {"width": 16, "code": 5, "channels": [4, 8]}),
    (DecoderFeatures, (3, 4, 12), {"width": 16, "depth": 2, "channels": [8]}),
    (UNetFeatures, (1, 8, 8), {"channels": [8, 16], "groups": 4}),
    (UNetFeatures, (3, 8, 8), {"channels": [8, 8], "groups": 4, "attention": [False, True], "layers": 2}),
]
networks = pytest.mark.parametrize(("network", "event", "extra"), CASES)
heads = pytest.mark.parametrize("head", ["flat", "squared_residual", "mixed"])


def build(network, event, extra, head):
    torch.manual_seed(0)
    return network(event, 3, head, 2 if head == "mixed" else None, **extra)


@networks
@heads
def test_shape_and_dependence_on_level_and_event(network, event, extra, head, generator):
    features = build(network, event, extra, head)
    x = torch.randn(5, *event, generator=generator)
    phi = features(x, torch.full((5,), 0.3))
    assert phi.shape == (5, 3)
    assert (phi - features(x, torch.full((5,), 0.8))).abs().max() > 1e-6
    torch.testing.assert_close(features(x[:2], torch.full((2,), 0.3)), phi[:2], rtol=1e-4, atol=1e-5)


@networks
@heads
def test_differentiable_twice(network, event, extra, head, generator):
    features = build(network, event, extra, head)
    x = torch.randn(3, *event, generator=generator, requires_grad=True)
    (grad,) = torch.autograd.grad(features(x, torch.full((3,), 0.5)).sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in features.parameters() if p.grad is not None)
    assert sum(float(p.grad.abs().sum()) for p in features.parameters() if p.grad is not None) > 0


@networks
@heads
def test_config_rebuilds_the_network(network, event, extra, head, generator):
    features = build(network, event, extra, head)
    assert NETWORKS[next(k for k, v in NETWORKS.items() if v is network)] is network
    twin = network(**features.config())
    twin.load_state_dict(features.state_dict())
    x, t = torch.randn(2, *event, generator=generator), torch.tensor([0.1, 0.9])
    torch.testing.assert_close(twin(x, t), features(x, t))


@networks
@heads
def test_checkpointing_changes_no_gradient(network, event, extra, head, generator):
    features = build(network, event, extra, head).double()
    x = torch.randn(3, *event, generator=generator, dtype=torch.float64, requires_grad=True)

    def gradients():
        features.zero_grad()
        phi = features(x, torch.full((3,), 0.5, dtype=torch.float64))
        (grad,) = torch.autograd.grad(phi.sum(), x, create_graph=True)
        (grad.square().sum() + phi.square().sum()).backward()
        return [p.grad.clone() for p in features.parameters()]

    plain = gradients()
    features.enable_checkpointing()
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@networks
def test_autocast_gives_features_of_the_events_type(network, event, extra, generator):
    features = build(network, event, extra, "squared_residual")
    x, t = torch.randn(3, *event, generator=generator, requires_grad=True), torch.full((3,), 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        phi = features(x, t)
        (grad,) = torch.autograd.grad(phi.sum(), x, create_graph=True)
        grad.square().sum().backward()
    assert phi.dtype == grad.dtype == torch.float32
    torch.testing.assert_close(phi, features(x, t), rtol=0.05, atol=0.05)


@networks
@heads
def test_activations_are_phi_and_states_that_depend_on_all(network, event, extra, head, generator):
    features = build(network, event, extra, head)
    x, t = torch.randn(5, *event, generator=generator, requires_grad=True), torch.full((5,), 0.3)
    phi, *states = features.activations(x, t)
    torch.testing.assert_close(phi, features(x, t))
    assert len(states) >= 1
    for state in states:
        assert state.ndim == 2
        assert state.shape[1] <= 16 * 64
        (slope,) = torch.autograd.grad(state.sum(), x, retain_graph=True)
        assert bool((slope.flatten(1).abs().amax(1) > 0).all())


@networks
@heads
def test_features_may_know_classes(network, event, extra, head, generator):
    """Every class has outputs of its own, and no class, too; an event's are those that it has alone."""
    features = build(network, event, {**extra, "num_classes": 4}, head)
    twin = network(**features.config())
    twin.load_state_dict(features.state_dict())
    x, t = torch.randn(1, *event, generator=generator).expand(5, *event), torch.full((5,), 0.3)
    labels = torch.arange(5)
    maps, flat = features.heads(x, t, labels)
    out = torch.cat([part.flatten(1) for part in (maps, flat) if part is not None], 1)
    assert torch.pdist(out).min() > 1e-6
    if head != "mixed":
        torch.testing.assert_close(twin.outputs(x[2:3], t[:1], labels[2:3]).flatten(1), out[2:3], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.outputs(x, t), features.outputs(x, t, torch.full((5,), 4)))
    torch.testing.assert_close(features(x, t)[0], features(x[:1], t[:1])[0], rtol=1e-4, atol=1e-5)


def test_a_network_of_ones_own_needs_no_hidden_states(unchecked):
    class Own(FeatureNetwork):
        def outputs(self, x, t):
            return x

    with pytest.raises(InputError, match="network = Own: gives no hidden states"):
        Own((2,), 2, "flat").activations(torch.zeros(1, 2), torch.zeros(1))


@networks
@heads
def test_any_number_or_tensor_is_a_noise_level(network, event, extra, head, generator):
    features = build(network, event, extra, head)
    x = torch.randn(3, *event, generator=generator)
    for number in (0.5005, 0, 1, 0.25):
        expected = features(x, torch.full((3,), float(number)))
        kinds = [number, torch.tensor(number), torch.tensor([number]), np.float64(number), np.float32(number)]
        kinds += [torch.full((3,), number), torch.tensor(number, dtype=torch.float64).expand(3).float()]
        for t in kinds:
            torch.testing.assert_close(features(x, t), expected)
    assert not torch.equal(features(x, 0.5005), features(x, 0))
    with pytest.raises(InputError, match=r"t has shape \[2\]: must be a number, or a tensor \[\], \[1\] or \[3\]"):
        features(x, torch.zeros(2))


@pytest.mark.parametrize(("before", "after"), [(5, 1), (3, 4), (4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_doubling_is_a_transposed_convolution(before, after, bias, generator):
    """Values, gradients and gradients of gradients; few maps are made by another road than many."""
    double = Doubling(before, after, bias=bias).double()
    x = torch.randn(2, before, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    plain = F.conv_transpose2d(x, double.weight, double.bias, stride=2, padding=1)
    assert plain.shape == (2, after, 6, 10)
    torch.testing.assert_close(double(x), plain, rtol=1e-12, atol=1e-13)

    def gradients(out):
        of_x, *of_weights = torch.autograd.grad(out.sin().sum(), [x, *double.parameters()], create_graph=True)
        return of_x, *of_weights, torch.autograd.grad(of_x.square().sum(), double.weight)[0]

    for ours, theirs in zip(gradients(double(x)), gradients(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_squared_residual_is_its_formula(generator):
    features = build(MLPFeatures, (1, 8, 8), {"width": 16}, "squared_residual")
    x, t = torch.randn(4, 1, 8, 8, generator=generator), torch.rand(4, generator=generator)
    u = features.outputs(x, t)
    assert u.shape == (4, 3, 1, 8, 8)
    expected = 64**0.25 / 2 * (x[:, None] - u).square().mean((2, 3, 4))
    torch.testing.assert_close(features(x, t), expected)


@networks
def test_mixed_features_are_squared_residuals_then_flat_ones(network, event, extra, generator):
    features = build(network, event, extra, "mixed")
    x, t = torch.randn(4, *event, generator=generator), torch.rand(4, generator=generator)
    maps, flat = features.heads(x, t)
    assert (maps.shape, flat.shape) == ((4, 2, *event), (4, 1))
    squares = features.event_size**0.25 / 2 * (x[:, None] - maps).square().flatten(2).mean(2)
    torch.testing.assert_close(features(x, t), torch.cat([squares, flat], 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MLPFeatures((2,), 4, "mixed"),
            "num_features = 4 with head = 'mixed': must be above num_residuals = 4",
        ),
        (lambda: MLPFeatures((2,), 4, "flat", 2), "num_residuals = 2 with head = 'flat': is for head = 'mixed'"),
        (lambda: MLPFeatures((1, 8, 8), 0), "num_features = 0"),
        (
            lambda: MLPFeatures((1, 8, 8), head="flt"),
            "head = 'flt': must be one of flat, squared_residual, mixed; did you mean 'flat'",
        ),
        (lambda: ConvFeatures((1, 7, 7), channels=(8, 8)), "height and width must be divisible by 2"),
        (lambda: ConvFeatures((1, 8, 8), channels=()), "number of channels = 0"),
        (lambda: UNetFeatures((1, 6, 6), channels=(8, 8, 8)), "height and width must be divisible by 4"),
        (lambda: DecoderFeatures((1, 6, 8)), r"event_shape = \[1, 6, 8\]: must be .* divisible by 4"),
        (lambda: DecoderFeatures((5,)), "must be .channels, height, width."),
        (lambda: DecoderFeatures((1, 8, 8), code=0), "code = 0"),
        (lambda: ConvFeatures((5,)), "must be .channels, height, width."),
        (lambda: UNetFeatures((1, 8, 8), channels=(6, 8)), "each must be divisible by groups = 8"),
        (lambda: UNetFeatures((1, 8, 8), attention=[True]), "attention has 1 entries: must have 2"),
    ],
)
def test_bad_input(make, message, unchecked):
    with pytest.raises(InputError, match=message):
        make()


@networks
def test_outputs_are_rescaled_exactly_or_refused(network, event, extra, generator):
    features = build(network, event, extra, "squared_residual")
    x, shift = torch.randn(4, *event, generator=generator), torch.randn(event, generator=generator)
    before = features.outputs(x, torch.zeros(4))
    if network not in (MLPFeatures, DecoderFeatures):
        with pytest.raises(InputError, match="has no bias for every entry"):
            features.rescale_outputs(2.0, shift)
        return
    features.rescale_outputs(2.0, shift)
    torch.testing.assert_close(features.outputs(x, torch.zeros(4)), 2 * before + shift, rtol=1e-4, atol=1e-5)
