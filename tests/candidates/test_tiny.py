"""candidates/tiny.py: the contract, and Muon."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.support.tiny_contract import ROOT, TinyContract

pytest.importorskip("torch", reason="the training scripts need torch")


class TestCandidate(TinyContract):
    script = ROOT / "candidates" / "tiny.py"

    @pytest.mark.parametrize("shape", [(64, 64), (256, 64), (3, 128, 32)])
    def test_orthogonalize_against_the_svd(
        self, module: ModuleType, shape: tuple[int, ...]
    ) -> None:
        """The same singular vectors, and all singular values near 1."""
        import torch

        G = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        U, S, Vh = torch.linalg.svd(G, full_matrices=False)
        assert S.max() / S.min() > 2  # a flat spectrum would prove nothing
        core = U.mT @ module.orthogonalize(G, 5) @ Vh.mT
        diagonal = core.diagonal(dim1=-2, dim2=-1)
        assert (core - torch.diag_embed(diagonal)).abs().max() < 1e-3
        # After 5 steps 0.68 ... 1.13; a square matrix's smallest values are still on their way.
        assert diagonal.max() < 1.25
        assert diagonal.median() > 0.7
        assert diagonal.min() > (0.65 if shape[-2] > shape[-1] else 0)

    def test_orthogonalize_is_scale_free(self, module: ModuleType) -> None:
        import torch

        G = torch.randn(64, 64)
        torch.testing.assert_close(
            module.orthogonalize(1e-4 * G, 5), module.orthogonalize(G, 5), atol=2e-2, rtol=0
        )
        assert not module.orthogonalize(torch.zeros(8, 8), 5).any()

    def test_one_step_of_muon(self, module: ModuleType) -> None:
        """The first update is lr * sqrt(rows / columns) * orthogonalize(gradient), per matrix."""
        import torch

        config = module.Config(lr_warmup_steps=1)
        model = module.GPT(config)
        optimizer = module.Optimizer(model, config, rank=0, world=1)
        before = model.mlp.detach().clone()
        assert model.mlp.grad is not None
        model.mlp.grad.copy_(torch.randn_like(model.mlp))
        grad = model.mlp.grad.clone()
        optimizer.step(0)
        step = config.muon_lr * 2  # sqrt(4)
        for layer in range(config.layers):
            for i in range(2):
                wanted = before[layer, i] - step * module.orthogonalize(grad[layer, i], 5)
                torch.testing.assert_close(model.mlp.data[layer, i], wanted, atol=2e-4, rtol=0)
        assert not optimizer.grads.any()

    def test_the_matrices_are_shared_out(self, module: ModuleType) -> None:
        """With 4 processes each keeps the momentum of a quarter of both banks."""
        config = module.Config()
        whole = sum(m.numel() for m in module.Optimizer(module.GPT(config), config, 0, 1).momenta)
        parts = [module.Optimizer(module.GPT(config), config, r, 4).momenta for r in range(4)]
        assert [sum(m.numel() for m in part) for part in parts] == [whole // 4] * 4
