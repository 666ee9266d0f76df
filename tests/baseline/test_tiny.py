"""baseline/tiny.py: the contract, and AdamW."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.support.tiny_contract import ROOT, TinyContract

pytest.importorskip("torch", reason="the training scripts need torch")


class TestBaseline(TinyContract):
    script = ROOT / "baseline" / "tiny.py"

    def test_one_step_of_adamw(self, module: ModuleType) -> None:
        """From zero moments the update is lr * g / (|g| + eps), whatever the betas."""
        import torch

        config = module.Config(weight_decay=0.0, lr_warmup_steps=1)
        model = module.GPT(config)
        optimizer = module.Optimizer(model, config, world=1)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        for p in model.parameters():
            assert p.grad is not None
            p.grad.copy_(torch.randn_like(p))
        grads = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
        optimizer.step(0)
        for k, p in model.named_parameters():
            wanted = before[k] - config.lr * grads[k] / (grads[k].abs() + 1e-8)
            torch.testing.assert_close(p.data, wanted, atol=1e-5, rtol=0)
        assert not optimizer.grads.any()
