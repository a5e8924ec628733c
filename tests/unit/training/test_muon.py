from __future__ import annotations

import torch

from cmap_cli.training.muon import Muon, orthogonalised


def test_singular_values_become_about_one_and_vectors_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((12, 40), (40, 12)):
        matrix = torch.randn(shape, generator=generator)
        found = orthogonalised(matrix)
        values = torch.linalg.svdvals(found)
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        assert float(((u @ vh) * found).sum() / min(shape)) > 0.8


def test_a_gradient_of_zero_moves_nothing() -> None:
    assert torch.equal(orthogonalised(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_a_step_moves_every_weight_by_as_much_as_adam_would() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    optimiser = Muon([weight], lr=0.1)
    weight.grad = 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    moved = weight.detach().square().mean().sqrt()
    assert 0.1 * 0.2 * 0.7 < float(moved) < 0.1 * 0.2 * 1.3
    assert float((weight.detach() * weight.grad).sum()) < 0


def test_a_convolution_is_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(6, 3, 3, 3, generator=generator)
    x = torch.randn(16, 3, 8, 8, generator=generator)
    target = torch.nn.functional.conv2d(x, wanted)
    weight = torch.nn.Parameter(torch.zeros_like(wanted))
    optimiser = Muon([weight], lr=0.1)
    losses = []
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.3 * (1 - step / 200)
        optimiser.zero_grad()
        loss = (torch.nn.functional.conv2d(x, weight) - target).square().mean()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0]
