"""The optimizer of candidates/small.py: each rule by hand, and the same update on 1 and 2 ranks."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.candidates.test_small_model import random_model
from tests.candidates.tiny_small import ROOT, load_script, tiny_config

small = load_script()


def scalars(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(v, dtype=torch.float32) for v in values]


# ---------------------------------------------------------------------------- Polar Express


@pytest.mark.parametrize("shape", [(2, 24, 64), (3, 48, 48), (2, 96, 32), (1, 1100, 16)])
def test_polar_express_approaches_the_polar_factor(shape: tuple[int, int, int]) -> None:
    """Same singular vectors as the SVD's U V^T, singular values near one."""
    torch.manual_seed(0)
    X = torch.randn(shape)
    Y = small.polar_express(X)
    U, _, Vh = torch.linalg.svd(X, full_matrices=False)
    core = U.mT @ Y @ Vh.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.85
    assert values.max() < 1.15
    torch.testing.assert_close(core, torch.diag_embed(values), rtol=0, atol=2e-4)


def test_polar_express_iterations_by_hand() -> None:
    """On a 1 x 1 matrix the iteration is the scalar polynomial a s + b s^3 + c s^5."""
    s = 3.0 / (1.02 * 3.0 + 1e-6)
    for a, b, c in small.POLAR_EXPRESS:
        s = a * s + b * s**3 + c * s**5
    assert small.polar_express(torch.tensor([[[3.0]]])).item() == pytest.approx(s, rel=1e-5)


# ---------------------------------------------------------------------------- NorMuon


@pytest.mark.parametrize("shape", [(2, 8, 6), (2, 6, 6), (2, 4, 12)])
def test_variance_reduction_by_hand(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    X = torch.randn(shape)
    rows, cols = shape[1:]
    axis = 2 if rows >= cols else 1
    start = torch.rand(2, rows, 1) if rows >= cols else torch.rand(2, 1, cols)
    second = start.clone()
    out = small.equalise_variance(X, second, 0.9)
    for i in range(2):
        x = X[i].double().numpy()
        mean_square = (x**2).mean(axis - 1, keepdims=True)
        state = 0.9 * start[i].double().numpy() + 0.1 * mean_square
        scaled = x / np.sqrt(state)
        wanted = scaled * np.linalg.norm(x) / np.linalg.norm(scaled)
        assert np.allclose(second[i].numpy(), state, rtol=1e-5)
        assert np.allclose(out[i].numpy(), wanted, rtol=1e-4)


@pytest.mark.parametrize("cautious", [True, False])
def test_normuon_step_by_hand(cautious: bool) -> None:
    """Momentum, Nesterov, orthogonalisation, per-matrix rate, decay where signs agree."""
    torch.manual_seed(0)
    p, g, m = torch.randn(3, 2, 12, 8).unbind(0)
    param, momentum = p.clone(), m.clone()
    second = torch.rand(2, 12, 1)
    S = second.clone()
    factor = torch.tensor([2.0, 4.0])
    small.normuon_update(
        param, None, g, momentum, second, factor, *scalars(0.9, 0.02, 0.03), 0.9, True, cautious
    )
    B = 0.9 * m + 0.1 * g
    torch.testing.assert_close(momentum, B)
    direction = small.equalise_variance(small.polar_express(0.9 * B + 0.1 * g), S, 0.9)
    for i in range(2):
        rate = 0.02 * factor[i].item()
        decay = p[i] * 0.03 * rate
        if cautious:
            decay = decay * (direction[i] * p[i] >= 0)
        torch.testing.assert_close(param[i], p[i] - decay - rate * direction[i])


def test_bits_join_and_split_exactly() -> None:
    """Any fp32 survives; the bf16 part is truncated towards zero, never rounded up."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(10_000), torch.tensor([0.0, -0.0, 1e-40, 3e38, -1.00390624])])
    high, low = small.split_bits(x)
    assert high.dtype == torch.bfloat16
    assert low.dtype == torch.int16
    assert torch.equal(small.join_bits(high, low).view(torch.int32), x.view(torch.int32))
    assert (high.float().abs() <= x.abs()).all()
    bf16 = torch.randn(100).bfloat16()
    assert torch.equal(small.join_bits(bf16, torch.zeros(100, dtype=torch.int16)), bf16.float())


def test_mantissa_tracking_equals_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 steps on bf16 + 16 bits are the steps of an fp32 parameter, bit for bit; without the
    extra bits most of the small updates are lost."""
    torch.manual_seed(0)
    start = torch.randn(1, 16, 8).bfloat16()
    # the orthogonalisation in bf16 for all, so that only the storage differs
    inner = small.polar_express
    monkeypatch.setattr(small, "polar_express", lambda X: inner(X.bfloat16()))
    tracked, low = start.clone(), torch.zeros(1, 16, 8, dtype=torch.int16)
    rounded, exact = start.clone(), start.float()
    runs = [(tracked, low), (rounded, None), (exact, None)]
    states = [(torch.zeros(1, 16, 8), torch.zeros(1, 16, 1)) for _ in runs]
    rates = scalars(0.9, 1e-4, 0.01)
    for step in range(200):
        g = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(step)).bfloat16()
        for (p, bits), (m, s) in zip(runs, states, strict=True):
            small.normuon_update(p, bits, g, m, s, torch.ones(1), *rates, 0.9, True, True)
    assert torch.equal(small.join_bits(tracked, low), exact)
    moved = (exact - start.float()).abs().mean()
    lost = (rounded.float() - exact).abs().mean()
    assert lost > 0.1 * moved


# ---------------------------------------------------------------------------- Adam


@pytest.mark.parametrize("cautious", [True, False])
def test_adam_by_hand(cautious: bool) -> None:
    """Three steps against the formulas in fp64, bias correction and decay with lr squared."""
    rng = np.random.default_rng(0)
    p0 = rng.normal(size=50)
    p, m, v = p0.copy(), np.zeros(50), np.zeros(50)
    param = torch.tensor(p0, dtype=torch.float32)
    tm, tv = torch.zeros(50), torch.zeros(50)
    b1, b2, eps, lr, wd = 0.75, 0.95, 1e-10, 0.6, 0.025
    for t in (1, 2, 3):
        g = rng.normal(size=50)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = lr * math.sqrt(1 - b2**t) / (1 - b1**t)
        u = step * m / (np.sqrt(v) + eps)
        u = u + p * lr**2 * wd * ((u * p > 0) if cautious else 1)
        p = p - u
        small.adam_update(
            param, torch.tensor(g, dtype=torch.float32), tm, tv, *scalars(step, lr**2 * wd),
            b1, b2, eps, cautious,
        )  # fmt: skip
    assert np.allclose(param.numpy(), p, rtol=1e-4, atol=1e-5)


def test_small_parameters_follow_their_own_rules() -> None:
    """The flat update equals adam_update on each replicated parameter by its rule."""
    torch.manual_seed(0)
    cfg = tiny_config()
    model = random_model(cfg)
    schedule = small.Schedule(cfg)
    optimizer = small.Optimizer(model, cfg, schedule, small.Comms(0, 1), 8)
    named = {n: p for n, p in model.named_parameters() if small.RULES[n].comms == "replicated"}
    assert "mudd_w1" in named
    expected = {n: p.detach().clone() for n, p in named.items()}
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in named.items()}
    for t, step in enumerate((1, 3), start=1):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        for n in named:
            rule = small.RULES[n]
            lr = 0.008 * schedule.lr_factor(step) * rule.lr_mul
            b1, b2 = rule.betas
            size = lr * math.sqrt(1 - b2**t) / (1 - b1**t)
            small.adam_update(
                expected[n], named[n].grad, *moments[n],
                *scalars(size, lr**2 * 0.005 * rule.wd_mul), b1, b2, 1e-10, True,
            )  # fmt: skip
        optimizer.step(step)
    for n, p in named.items():
        torch.testing.assert_close(p.detach(), expected[n], rtol=1e-4, atol=1e-6, msg=n)


# ---------------------------------------------------------------------------- order of a step


def set_gradients(model, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        g = torch.randn(p.shape, generator=generator)
        p.grad = g if p.grad is None else p.grad + g


def test_adam_waits_for_odd_steps_and_sums_two_gradients() -> None:
    cfg = tiny_config()
    a, b = random_model(cfg), random_model(cfg)
    make = [small.Optimizer(m, cfg, small.Schedule(cfg), small.Comms(0, 1), 8) for m in (a, b)]
    before = {n: p.detach().clone() for n, p in a.named_parameters()}
    set_gradients(a, 1)
    first = {n: p.grad.clone() for n, p in a.named_parameters()}
    make[0].step(0)
    for n, p in a.named_parameters():
        if small.RULES[n].kind == "adam":
            assert torch.equal(p, before[n]), n
            assert torch.equal(p.grad, first[n]), n
        else:
            assert not torch.equal(p, before[n]), n
            assert p.grad is None, n
    set_gradients(a, 2)
    summed = a.value_embeds.grad.clone()
    make[0].step(1)
    assert all(p.grad is None for p in a.parameters())
    set_gradients(b, 3)
    b.value_embeds.grad = summed
    make[1].step(1)
    assert torch.equal(a.value_embeds, b.value_embeds)


def test_every_step_adam_is_a_switch() -> None:
    cfg = tiny_config(adam_alternate=False)
    model = random_model(cfg)
    before = model.value_embeds.detach().clone()
    set_gradients(model)
    small.Optimizer(model, cfg, small.Schedule(cfg), small.Comms(0, 1), 8).step(0)
    assert not torch.equal(model.value_embeds, before)


def test_tied_then_untied() -> None:
    """Tied: the head takes both gradients and is copied. Untied: both move, from equal states."""
    cfg = tiny_config()
    model = random_model(cfg)
    schedule = small.Schedule(cfg)
    assert schedule.split_step == 9
    with torch.no_grad():
        model.embed.copy_(model.lm_head.T)
    optimizer = small.Optimizer(model, cfg, schedule, small.Comms(0, 1), 8)
    head = model.lm_head.detach().clone()
    set_gradients(model)
    total = model.lm_head.grad + model.embed.grad.T
    optimizer.step(1)
    assert torch.equal(model.embed, model.lm_head.T)
    m, v = torch.zeros_like(head), torch.zeros_like(head)
    lr = 0.008
    size = lr * math.sqrt(1 - 0.95) / (1 - 0.5)
    small.adam_update(
        head, total, m, v, *scalars(size, lr**2 * 0.005 * 150), 0.5, 0.95, 1e-10, True
    )
    torch.testing.assert_close(model.lm_head.detach(), head)
    for step in range(2, 10):
        assert optimizer.tied
        set_gradients(model, step)
        optimizer.step(step)
    assert not optimizer.tied
    assert torch.equal(model.embed, model.lm_head.T)
    states = optimizer.tables
    for key in ("m", "v"):
        assert torch.equal(states["embed"][key], states["lm_head"][key].T)
    assert states["embed"]["steps"] == states["lm_head"]["steps"] == 5
    set_gradients(model, 11)
    optimizer.step(11)
    assert not torch.equal(model.embed, model.lm_head.T)
    assert states["embed"]["steps"] == 6


def test_never_untied() -> None:
    cfg = tiny_config(untie=False)
    assert small.Schedule(cfg).split_step > cfg.total_steps


def test_shape_factors() -> None:
    """Rate factor 1 for qk and vo, 2 for up, 4 for down matrices."""
    cfg = tiny_config(mlp_dim=128)
    optimizer = small.Optimizer(random_model(cfg), cfg, small.Schedule(cfg), small.Comms(0, 1), 8)
    assert set(optimizer.banks["qk_bank"]["factor"].tolist()) == {1.0}
    assert set(optimizer.banks["vo_bank"]["factor"].tolist()) == {1.0}
    assert optimizer.banks["mlp_bank"]["factor"].tolist() == [2.0, 4.0] * 12


def test_orders_name_every_rule_once() -> None:
    large = {n for n, rule in small.RULES.items() if rule.comms != "replicated"} | {"small"}
    assert set(small.SCATTER_ORDER) == set(small.WORK_ORDER) == large
    assert len(small.SCATTER_ORDER) == len(small.WORK_ORDER) == len(large)


def test_reset_forgets_everything() -> None:
    cfg = tiny_config()
    model = random_model(cfg)
    optimizer = small.Optimizer(model, cfg, small.Schedule(cfg), small.Comms(0, 1), 8)
    for step in range(12):
        set_gradients(model, step)
        optimizer.step(step)
    optimizer.reset()
    fresh = small.Optimizer(model, cfg, small.Schedule(cfg), small.Comms(0, 1), 8)
    assert optimizer.tied
    for old, new in (
        *zip(optimizer.banks.values(), fresh.banks.values(), strict=True),
        *zip(optimizer.tables.values(), fresh.tables.values(), strict=True),
        (optimizer.small, fresh.small),
    ):
        for key in ("m", "v", "momentum", "second", "steps"):
            if key in new:
                assert torch.equal(torch.as_tensor(old[key]), torch.as_tensor(new[key])), key


def test_compiling_the_updates_changes_nothing() -> None:
    cfg = tiny_config()
    model = random_model(cfg)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = small.Optimizer(model, cfg, small.Schedule(cfg), small.Comms(0, 1), 8)
    optimizer.compile_updates()
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]), n


# ---------------------------------------------------------------------------- several ranks

RANKS = """
import sys
import torch, torch.distributed as dist
sys.path.insert(0, {root!r})
from tests.candidates.tiny_small import load_script, tiny_config
from tests.candidates.test_small_model import random_model
small = load_script()
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
for sparse in (False, True):
    cfg = tiny_config(sparse_bigram=sparse)
    model = random_model(cfg)
    with torch.no_grad():
        model.embed.copy_(model.lm_head.T)
    # accumulation 1 switches the sparse exchange on
    optimizer = small.Optimizer(model, cfg, small.Schedule(cfg), small.Comms(rank, world), 1)
    assert (optimizer.sparse is not None) == sparse
    for step in range(14):
        g = torch.Generator().manual_seed(step)
        grads = [[torch.randn(p.shape, generator=g) for p in model.parameters()] for _ in range(2)]
        rows = [torch.randint(0, cfg.bigram_rows, (40,), generator=g) for _ in range(2)]
        batch = small.Batch(*[torch.empty(0)] * 4, rows[rank].numpy())
        optimizer.before_forward(batch, step)
        optimizer.before_backward(step)
        for (n, p), own in zip(model.named_parameters(), grads[rank]):
            if n == "bigram_embed":
                mask = torch.zeros(cfg.bigram_rows, 1)
                mask[rows[rank]] = 1
                own = own * mask
            p.grad = own if p.grad is None else p.grad + own
        optimizer.step(step)
    if rank == 0:
        final = {{n: p.detach() for n, p in model.named_parameters()}}
        torch.save(final, f"{{sys.argv[1]}}/{{int(sparse)}}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_make_the_update_of_one(tmp_path: Path) -> None:
    """Fourteen steps through gloo, dense and sparse bigram exchange, through the untie step."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.format(root=str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]

    cfg = tiny_config()
    model = random_model(cfg)
    with torch.no_grad():
        model.embed.copy_(model.lm_head.T)
    optimizer = small.Optimizer(model, cfg, small.Schedule(cfg), small.Comms(0, 1), 8)
    for step in range(14):
        g = torch.Generator().manual_seed(step)
        grads = [[torch.randn(p.shape, generator=g) for p in model.parameters()] for _ in range(2)]
        rows = [torch.randint(0, cfg.bigram_rows, (40,), generator=g) for _ in range(2)]
        for i, (n, p) in enumerate(model.named_parameters()):
            pair = [grads[0][i], grads[1][i]]
            if n == "bigram_embed":
                for r in range(2):
                    mask = torch.zeros(cfg.bigram_rows, 1)
                    mask[rows[r]] = 1
                    pair[r] = pair[r] * mask
            mean = (pair[0] + pair[1]) / 2
            p.grad = mean if p.grad is None else p.grad + mean
        optimizer.step(step)
    for kind in ("0", "1"):
        got = torch.load(tmp_path / f"{kind}.pt", weights_only=True)
        for n, p in model.named_parameters():
            torch.testing.assert_close(got[n], p.detach(), rtol=1e-3, atol=2e-4, msg=f"{n} {kind}")
