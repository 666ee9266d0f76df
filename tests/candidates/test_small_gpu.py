"""candidates/small.py on a GPU, at the sizes of the run: `pytest -m gpu tests/candidates`.

What the CPU cannot show: FlashAttention-3 against dense attention, the compiled updates against
the eager ones, and the record-size model compiled, its first loss and its gradients.
"""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.candidates.tiny_small import load_script, write_data

small = load_script()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
]
CUDA = torch.device("cuda", 0)


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got.float() - wanted.float()).norm() / wanted.float().norm()).item()


@pytest.mark.parametrize(
    ("tokens", "heads", "window", "max_len"), [(4096, 6, 128, 896), (8192, 3, 384, 1792)]
)
def test_attention_backend_equals_dense_attention(
    tokens: int, heads: int, window: int, max_len: int
) -> None:
    """Output and gradients of the backend this machine would use, against fp32."""
    attention = small.find_attention(CUDA)
    run = attention.run
    if "FlexAttention" in attention.name:
        run = torch.compile(run, dynamic=False)
    rng = np.random.default_rng(0)
    ends, at = [0], 0
    while at < tokens:
        at = min(tokens, at + int(rng.integers(1, max_len)))
        ends.append(at)
    cu = torch.tensor(ends + [tokens] * 8, dtype=torch.int32, device=CUDA)
    torch.manual_seed(0)
    leaves = [
        torch.randn(tokens, heads, 128, device=CUDA, dtype=torch.bfloat16).requires_grad_()
        for _ in range(3)
    ]
    upstream = torch.randn(tokens, heads, 128, device=CUDA, dtype=torch.bfloat16)
    out = run(*leaves, cu, max_len, 0.1, window)
    got = torch.autograd.grad(out, leaves, upstream)
    exact = [t.detach().float().requires_grad_() for t in leaves]
    wanted = small.dense_attention(*exact, cu, max_len, 0.1, window)
    assert relative_error(out, wanted) < 1e-2
    for a, b in zip(got, torch.autograd.grad(wanted, exact, upstream.float()), strict=True):
        assert relative_error(a, b) < 2e-2


@pytest.mark.parametrize("shape", [(8, 256, 768), (3, 768, 768), (3, 3072, 768)])
def test_compiled_normuon_equals_eager(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    second = (shape[0], shape[1], 1) if shape[1] >= shape[2] else (shape[0], 1, shape[2])
    start = [
        torch.randn(shape, device=CUDA).bfloat16(),
        torch.randint(-32768, 32767, shape, device=CUDA, dtype=torch.int16),
        torch.randn(shape, device=CUDA).bfloat16(),
        torch.randn(shape, device=CUDA),
        torch.rand(second, device=CUDA),
    ]
    before = small.join_bits(*start[:2])
    compiled = torch.compile(small.normuon_update, dynamic=False, fullgraph=True)
    results = []
    for update in (small.normuon_update, compiled):
        state = [t.clone() for t in start]
        update(
            *state, torch.full((shape[0],), 2.0, device=CUDA),
            *(torch.tensor(x) for x in (0.9, 0.02, 0.03)), 0.9, True, True,
        )  # fmt: skip
        results.append(small.join_bits(*state[:2]) - before)
        momentum = start[3] + 0.1 * (start[2].float() - start[3])
        torch.testing.assert_close(state[3], momentum)
    # Five bf16 iterations round differently when fused: .040 to .063 apart on an H200.
    assert relative_error(results[1], results[0]) < 1e-1
    # without decay every singular value of the update is near one, so its norm is known
    state = [t.clone() for t in start]
    compiled(
        *state, torch.full((shape[0],), 2.0, device=CUDA),
        *(torch.tensor(x) for x in (0.9, 0.02, 0.0)), 0.9, True, True,
    )  # fmt: skip
    size = (small.join_bits(*state[:2]) - before).flatten(1).norm(dim=1) / (2 * 0.02)
    assert (size / math.sqrt(min(shape[1:])) - 1).abs().max() < 0.2


def test_compiled_update_keeps_every_bit_at_rate_zero() -> None:
    torch.manual_seed(0)
    shape = (3, 768, 768)
    param = torch.randn(shape, device=CUDA).bfloat16()
    low = torch.randint(-32768, 32767, shape, device=CUDA, dtype=torch.int16)
    state = [param.clone(), low.clone(), torch.randn_like(param), torch.zeros(shape, device=CUDA)]
    torch.compile(small.normuon_update, dynamic=False, fullgraph=True)(
        *state, torch.zeros(3, 768, 1, device=CUDA), torch.ones(3, device=CUDA),
        *(torch.tensor(x) for x in (0.9, 0.0, 0.0)), 0.9, True, True,
    )  # fmt: skip
    assert torch.equal(state[0], param)
    assert torch.equal(state[1], low)


def test_compiled_quantisation_uses_one_scale() -> None:
    torch.manual_seed(0)
    cfg = small.Config(
        vocab_size=256, bigram_rows=8, val_tokens_per_rank=256, value_embeds=False,
        stages=tuple(small.replace(s, batch_tokens=2048) for s in small.RECORD_STAGES),
    )  # fmt: skip
    model = small.GPT(cfg, CUDA)
    model.quantize_mlp()
    up = model.mlp_bank.detach()[:, 0].float()
    scale = (up.abs().amax((1, 2)) / 448).bfloat16().float()
    assert torch.equal(model.up_scale, scale)
    back = model.up_fp8.float() * scale[:, None, None]
    assert (back - up).abs().max() <= up.abs().max() / 16


def test_scores_have_the_same_bits_whatever_else_is_asked() -> None:
    """The compiled trunk and this machine's attention: what follows a token, other positions beside
    it and the length of the text do not reach its bits."""
    small.use_attention(small.find_attention(CUDA))
    cfg = small.Config(vocab_size=1024, bigram_rows=4096, bos_id=0, val_tokens_per_rank=8192)
    torch.manual_seed(0)
    model = small.GPT(cfg, CUDA)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = {"lm_head": 0.3, "embed": 0.3}.get(name, 0.03)
            p.add_((scale * torch.randn(p.shape, device=CUDA)).to(p.dtype))
    scorer = small.Scorer(model.eval().requires_grad_(False), (768, 2560), 0.13)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 1024, 10_000)
    tokens[rng.integers(0, 10_000, 30)] = 0
    nll = scorer.nll(tokens)
    asked = [0, 100, 4095, 4096, 5000, 8191, 8192, 9998]
    rows = scorer.logprobs(tokens, asked)
    assert nll.std() > 0.1
    for row, p in zip(rows, asked, strict=True):
        assert -row[tokens[p + 1]] == nll[p]
        assert torch.equal(scorer.logprobs(tokens, [p])[0], row)
        assert torch.equal(scorer.logprobs(tokens[: p + 1], [p])[0], row)
        other = tokens.copy()
        other[p + 1 :] = rng.integers(1, 1024, len(tokens) - p - 1)
        assert torch.equal(scorer.nll(other)[:p], nll[:p])
        assert torch.equal(scorer.logprobs(other, [p])[0], row)


@pytest.mark.slow
@pytest.mark.parametrize("record", [84, 89])
def test_record_model_compiled(
    record: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First loss 10.83 +- 0.01, finite gradients, two updates that lower the training loss."""
    monkeypatch.setenv("DATA_PATH", str(write_data(tmp_path)))
    cfg = small.record_config(record)
    cfg, _ = small.fit_to_device(cfg, CUDA)
    small.use_attention(small.find_attention(CUDA))
    torch.manual_seed(0)
    trainer = small.Trainer(cfg, 0, 1, CUDA, small.Log(1))
    rng = np.random.default_rng(0)
    # Uniform: tied weights lift the current token's own logit, so repeats would lower the loss.
    tokens = rng.integers(0, 50_256, 16_385).astype(np.uint16)
    tokens[::400] = cfg.bos_id
    batch = small.unaligned_batch(tokens, cfg, CUDA)

    weights = torch.tensor([1.0], device=CUDA)
    arguments = batch.tokens, batch.targets, batch.cu_seqlens, batch.bigram_rows, weights

    def losses() -> torch.Tensor:
        return trainer.forward(*arguments, 128, 384, 896, 0.1)

    first = None
    for step in range(4):
        loss = losses()
        if first is None:
            first = loss.mean().item()
            assert first == pytest.approx(10.83, abs=0.015)
        (loss.sum() * trainer.model.grad_scale).backward()
        for name, p in trainer.model.named_parameters():
            assert p.grad.isfinite().all(), name
        trainer.optimizer.step(step)
        trainer.model.quantize_mlp()
    assert losses().mean().item() < first - 0.3  # the batch is learnt by heart


@pytest.mark.parametrize("record", [84, 89])
def test_fused_heads_give_the_plain_ones_losses_and_gradients(record: int) -> None:
    """The whole model op by op, with weights on which every gate and coefficient matters."""
    small.use_attention(small.find_attention(CUDA))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50_256, 4097).astype(np.uint16)
    tokens[::300] = 50_256
    results = []
    for fused in (True, False):
        cfg = small.replace(
            small.record_config(record), fused_heads=fused, compile=False, vocab_size=50_304
        )
        cfg, _ = small.fit_to_device(cfg, CUDA)
        torch.manual_seed(0)
        model = small.GPT(cfg, CUDA)
        with torch.no_grad():
            for name, p in model.named_parameters():
                scale = {"lm_head": 0.02, "embed": 0.3, "bigram_embed": 0.3}.get(name, 0.02)
                p.add_((scale * torch.randn(p.shape, device=CUDA)).to(p.dtype))
        model.quantize_mlp()
        batch = small.unaligned_batch(tokens, cfg, CUDA)
        numbers = map(small.host_number, (128, 384))
        losses = model(
            *batch[:4], torch.tensor([1.0], device=CUDA), *numbers, 896, small.host_number(0.1),
            torch.tensor([0.1], device=CUDA) if cfg.prefix else None,
        )  # fmt: skip
        losses.sum().backward()
        results.append((losses.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (one, one_grads), (two, two_grads) = results
    assert two.std() > 0.1
    # Roundings that FP8 makes larger: .064 for #89's losses on an H200, its gradients not seen yet.
    loss_bound, bound = (5e-2, 1e-1) if record == 84 else (1e-1, 2e-1)
    assert relative_error(one - two.mean(), two - two.mean()) < loss_bound
    for name, grad in two_grads.items():
        assert relative_error(one_grads[name], grad) < bound, name


@pytest.mark.parametrize("shared", [False, True])
def test_a_recorded_update_leaves_a_recorded_passs_gradients_alone(shared: bool) -> None:
    """An update recorded before a pass must not compute where that pass leaves its gradients: those
    of Adam's parameters wait there through the NorMuon updates of a step. With one pool for both
    (`shared`) it does, the run of 8 GPUs was lost soon after stage 2 began: so this test can fail.
    """
    before = torch.cuda.current_stream()
    torch.cuda.set_stream(torch.cuda.Stream(CUDA))
    try:
        w = torch.nn.Parameter(torch.randn(2048, 2048, device=CUDA))
        momentum = torch.zeros_like(w)
        updates = small.Recorder()
        passes = small.Passes([w], [], updates if shared else small.Recorder())

        def update() -> None:
            momentum.add_((momentum + 1) @ (momentum + 2))

        def losses(x: torch.Tensor) -> torch.Tensor:
            return (x @ w).square().sum(1)

        def gradient(rows: int, may_record: bool) -> torch.Tensor:
            w.grad = None
            passes.run(losses, [torch.ones(rows, 2048, device=CUDA)], (), 1.0, may_record)
            return w.grad

        gradient(64, True)
        replay = updates.checked(update, [momentum])
        gradient(4096, True)
        assert len(passes.known) == 2
        waiting = gradient(4096, False)
        wanted = waiting.clone()
        replay()
        torch.cuda.synchronize()
        assert torch.equal(waiting, wanted) != shared
    finally:
        torch.cuda.set_stream(before)


@pytest.mark.slow
@pytest.mark.parametrize("record", [84, 89])
def test_recorded_steps_are_plain_steps(
    record: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps on one batch, kernel by kernel and as CUDA graphs: losses as close as atomic sums
    leave them. All that a step of one process can record is recorded, and replayed."""
    monkeypatch.setenv("DATA_PATH", str(write_data(tmp_path)))
    small.use_attention(small.find_attention(CUDA))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50_256, 16_385).astype(np.uint16)
    tokens[::400] = 50_256
    before, after = torch.cuda.current_stream(), []
    try:
        for graphs in (False, True):
            cfg = small.replace(small.record_config(record), graphs=graphs)
            cfg, _ = small.fit_to_device(cfg, CUDA)
            small.leave_default_stream(cfg, CUDA)
            torch.manual_seed(0)
            trainer = small.Trainer(cfg, 0, 1, CUDA, small.Log(1))
            trainer.accumulation = 1
            trainer.model.set_grad_scale(1.0)
            batch = small.unaligned_batch(tokens, cfg, CUDA)
            monkeypatch.setattr(trainer, "set_stage", lambda step: None)
            loader = SimpleNamespace(next=lambda *_, b=batch: b, notices=[])
            for step in range(6):
                trainer.recording = trainer.optimizer.recording = graphs and step < 3
                trainer.train_step(loader, step)
                if graphs and step == 2:
                    trainer.record_casts()
            with torch.no_grad():
                after.append(trainer.validation_losses(batch, 0).mean().item())
            if graphs:
                assert not trainer.passes.refused
                assert not trainer.optimizer.refused
                assert len(trainer.passes.known) == 2
                assert set(trainer.optimizer.recorded) == {"small"}
                assert set(trainer.casts) == ({False, True} if cfg.fp8_down else {False})
            del trainer
    finally:
        torch.cuda.set_stream(before)
    assert after[0] < 10.6
    assert after[1] == pytest.approx(after[0], abs=0.02)
