"""Muon: its iteration against singular vectors, its steps against AdamW's and against torch's."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from mmdflow import InputError
from mmdflow.features import ConvFeatures, DecoderFeatures, MLPFeatures, UNetFeatures
from mmdflow.training import Muon
from mmdflow.training.muon import hidden_and_rest, orthogonalize


def drawn(m, n, seed, dtype=torch.float64):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def directly(matrix):
    """The iteration as published, on the whole matrix."""
    if matrix.shape[0] > matrix.shape[1]:
        return directly(matrix.mT).mT
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_it_is_the_published_iteration(m, n, seed):
    matrix = drawn(m, n, seed)
    torch.testing.assert_close(orthogonalize(matrix), directly(matrix), rtol=0, atol=1e-10)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_singular_vectors_stay_and_the_size_does_not_matter(m, n, scale, seed):
    matrix = drawn(m, n, seed)
    found = orthogonalize(matrix)
    torch.testing.assert_close(orthogonalize(scale * matrix), found, rtol=0, atol=1e-10)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ found @ vh.mT
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), rtol=0, atol=1e-9)
    large = inside.diagonal()[s > 0.01 * s.square().sum().sqrt()]
    assert ((large > 0.67) & (large < 1.14)).all()


def test_nothing_to_learn_is_no_step():
    assert not orthogonalize(torch.zeros(3, 5)).any()


def test_in_float32_it_is_right_for_matrices_of_almost_no_rank():
    low = drawn(64, 3, 0) @ drawn(3, 576, 1) + 1e-5 * drawn(64, 576, 2)
    torch.testing.assert_close(orthogonalize(low.float()).double(), directly(low), rtol=0, atol=1e-4)


def stepped(optimizer, parameters, gradients):
    for gradient in gradients:
        for parameter, part in zip(parameters, gradient, strict=True):
            parameter.grad = part.clone()
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def test_what_is_no_matrix_steps_by_adamw():
    gradients = [[drawn(1, 5, seed)[0]] for seed in range(4)]
    options = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.3}
    (ours,), (theirs,) = (
        stepped(kind(of, **options), of, gradients)
        for kind, of in (
            (Muon, [nn.Parameter(torch.ones(5).double())]),
            (torch.optim.AdamW, [nn.Parameter(torch.ones(5).double())]),
        )
    )
    assert torch.equal(ours, theirs)


def test_matrices_step_as_torchs_do_but_for_its_bfloat16():
    gradients = [[drawn(6, 9, seed, torch.float32)] for seed in range(4)]
    start = drawn(6, 9, 9, torch.float32)
    ours, theirs = [nn.Parameter(start.clone())], [nn.Parameter(start.clone())]
    stepped(Muon(ours, lr=0.02, weight_decay=1.5), ours, gradients)
    peer = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    stepped(peer, theirs, gradients)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=5e-3)
    assert (ours[0] - start).abs().mean() > 0.05


def test_a_convolution_is_the_matrix_of_its_outputs():
    gradients = drawn(4, 18, 0)
    (flat,) = stepped(Muon(of := [nn.Parameter(torch.zeros(4, 18).double())], lr=0.1), of, [[gradients]])
    (conv,) = stepped(
        Muon(of := [nn.Parameter(torch.zeros(4, 2, 3, 3).double())], lr=0.1), of, [[gradients.view(4, 2, 3, 3)]]
    )
    assert torch.equal(conv.flatten(1), flat)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_entries_of_a_step_are_as_large_as_the_step_size(m, n, seed):
    (moved,) = stepped(Muon(of := [nn.Parameter(torch.zeros(m, n).double())], lr=0.1), of, [[drawn(m, n, seed)]])
    assert 0.5 < float(moved.square().mean().sqrt()) / 0.1 < 1.2


def test_a_parameter_without_a_gradient_stays_and_gradients_are_kept():
    still, moved = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([still, moved], lr=0.1, weight_decay=0.5)
    moved.grad = torch.eye(2)
    optimizer.step()
    assert torch.equal(still, torch.ones(2, 2))
    assert not torch.equal(moved, torch.ones(2, 2))
    assert still.grad is None
    assert torch.equal(moved.grad, torch.eye(2))


def test_a_closure_is_evaluated_with_gradients():
    layer = nn.Linear(3, 2)
    optimizer = Muon(layer.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.ones(4, 3)).square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("momentum", [1.0, -0.1, float("nan")])
def test_a_momentum_that_cannot_be(momentum):
    with pytest.raises(InputError, match="momentum"):
        Muon([nn.Parameter(torch.ones(2, 2))], momentum=momentum)


def test_parameters_of_a_group_may_all_step_by_adamw():
    gradients = [[drawn(4, 5, seed)] for seed in range(3)]
    apart = {"params": (of := [nn.Parameter(torch.ones(4, 5).double())]), "orthogonal": False}
    (ours,) = stepped(Muon([apart], lr=0.1), of, gradients)
    (theirs,) = stepped(
        torch.optim.AdamW(of := [nn.Parameter(torch.ones(4, 5).double())], lr=0.1, weight_decay=0), of, gradients
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (MLPFeatures((2,), 4, width=8), {"read_out"}),
        (ConvFeatures((1, 8, 8), 8, "mixed", channels=(4, 8), num_classes=3), {"read_out", "read_flat", "of_class"}),
        (
            DecoderFeatures((1, 8, 8), 3, "mixed", num_residuals=1, code=4, width=8, channels=(4, 8)),
            {"read_out", "read_flat"},
        ),
        (
            UNetFeatures((1, 8, 8), 8, "mixed", channels=(8, 8), num_classes=3),
            {"network.conv_out", "network.class_embedding", "read_out"},
        ),
    ],
)
def test_read_outs_and_embeddings_step_by_adamw(network, names):
    parts = hidden_and_rest(nn.ModuleList([network]))
    apart = {name for name, p in network.named_parameters() if any(p is other for other in parts[False])}
    assert {name.rpartition(".")[0] for name in apart} == names
    assert len(parts[True]) + len(parts[False]) == len(list(network.parameters()))


def test_frozen_parameters_are_in_neither_part():
    network = MLPFeatures((2,), 4, width=8).requires_grad_(False)
    assert hidden_and_rest(network) == {True: [], False: []}
