"""The whole model of candidates/small.py against a second, plain reading of the specification.

`reading` below is written from the formulas of record #84 alone: one document, head and token rule
at a time, no banks, no views, no shared code with the script. Parameters are random everywhere (at
their initial values most techniques are switched off by a zero), in fp32, on the CPU.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.candidates.tiny_small import ROOT, load_script, random_documents, tiny_config

small = load_script()
CPU = torch.device("cpu")
SHORT, LONG, SCALE = 4, 12, 0.13
T = 64


def random_model(cfg, seed: int = 0):
    torch.manual_seed(seed)
    model = small.GPT(cfg, CPU)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in ("resid_lambdas", "post_lambdas", "scalars"):
                p.add_(0.2 * torch.randn_like(p))
            else:
                p.copy_((0.5 if p.dim() < 3 else 0.2) * torch.randn_like(p))
    return model


def some_batch(cfg, seed: int = 0):
    return small.unaligned_batch(random_documents(T + 1, mean=12, seed=seed), cfg, CPU)


def losses_of(model, batch, weights: Tensor | None, scale: float = SCALE) -> Tensor:
    return model(
        batch.tokens, batch.targets, batch.cu_seqlens, batch.bigram_rows, weights,
        SHORT, LONG, T, scale,
    )  # fmt: skip


# ---------------------------------------------------------------------------- the reading


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1.1920929e-07).sqrt()


def turn(vector: Tensor, position: int, frequencies: np.ndarray) -> Tensor:
    """Rotary embedding of one head vector at one position, pair by pair."""
    out = vector.clone()
    for j, w in enumerate(frequencies):
        a = np.float32(position) * np.float32(w)
        even, odd = vector[2 * j], vector[2 * j + 1]
        out[2 * j] = math.cos(a) * even + math.sin(a) * odd
        out[2 * j + 1] = math.cos(a) * odd - math.sin(a) * even
    return out


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, document: list[int], window: int) -> Tensor:
    """One head: row t over the rows t - window .. t of its own document."""
    rows = []
    for t in range(len(document)):
        seen = [s for s in range(max(0, t - window), t + 1) if document[s] == document[t]]
        weights = torch.softmax(SCALE * (k[seen] @ q[t]), 0)
        rows.append(weights @ v[seen])
    return torch.stack(rows)


def reading(model, cfg, batch) -> Tensor:
    """Final normalised stream (T, D), from the specification."""
    P = {name: p.detach() for name, p in model.named_parameters()}
    H, D, C = cfg.num_heads, cfg.model_dim, cfg.model_dim // cfg.num_heads
    V = cfg.vocab_size
    x_tok = batch.tokens.tolist()
    document, now = [], 0
    starts = set(batch.cu_seqlens.tolist())
    for t in range(T):
        now += t in starts
        document.append(now)
    frequencies = [(1 / 1024) ** (j / (C // 4 - 1)) for j in range(C // 4)]
    bank = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 7: 6, 8: 7, 9: 8, 10: 9}
    table_of = {1: 0, 2: 1, 8: 2, 9: 3, 10: 4}
    windows = dict(
        enumerate([SHORT, SHORT, SHORT, LONG, SHORT, SHORT, 0, SHORT, SHORT, SHORT, LONG])
    )

    # embeddings
    e = torch.stack([P["embed"][tok] for tok in x_tok])
    smear_lambda, skip_lambda = P["scalars"][22], P["scalars"][23]
    smeared = e.clone()
    for t in range(1, T):
        gate = torch.sigmoid(P["smear_gate"][0] @ e[t, :12])
        smeared[t] = e[t] + smear_lambda * gate * e[t - 1]
    g = torch.zeros(T, cfg.bigram_dim)
    for t in range(T):
        if t == 0:
            row, sign = cfg.bigram_rows - 1, 0
        else:
            row = ((36313 * x_tok[t]) ^ (27191 * x_tok[t - 1])) % (cfg.bigram_rows - 1)
            sign = (x_tok[t - 1] ^ x_tok[t]) % cfg.sign_rows
        g[t] = P["bigram_embed"][row] * model.bigram_sign_table[sign]
    wide_g = F.pad(g, (0, D - cfg.bigram_dim))
    VE = [torch.stack([P["value_embeds"][j * V + tok] for tok in x_tok]) for j in range(5)]
    gated = cfg.gated_mudd

    def gate_columns(block: int, n: int, y: Tensor) -> Tensor:
        hidden = F.gelu(y @ P["mudd_gate_w1"][block].T)
        return P["gate_scale"] * (
            hidden @ P["mudd_gate_w2"][block][:n].T + P["mudd_gate_b2"][block][:n]
        )

    xsa_alpha, out_gate, x0_gate, bigram_gate = {}, {}, {}, {}
    if gated:
        x0 = rms(smeared)
        pre = gate_columns(0, 3 * H + 8, x0)
        xsa_alpha[1], xsa_alpha[3] = pre[:, :H], pre[:, H : 2 * H]
        out_gate[3] = pre[:, 2 * H : 3 * H]
        for n, i in enumerate((0, 1, 2, 3)):
            x0_gate[i] = pre[:, 3 * H + 2 * n, None]
            bigram_gate[i] = pre[:, 3 * H + 2 * n + 1, None]
        x = x0 + bigram_gate[0] * wide_g
    else:
        x = x0 = rms(smeared) + P["bigram_lambdas"][0] * wide_g
        for i in range(11):
            x0_gate[i], bigram_gate[i] = P["x0_lambdas"][i], P["bigram_lambdas"][i]
            xsa_alpha[i] = P["xsa_alphas"][i].expand(T, H)
        skip = torch.sigmoid(skip_lambda) * 2 * torch.sigmoid(x0[:, :12] @ P["skip_gate"][0])
    c0 = x

    def heads(y: Tensor) -> Tensor:
        return y.view(T, H, C)

    def attention(i: int, a_in: Tensor, extra: Tensor | None) -> Tensor:
        b = bank[i]
        a0, a1 = P["scalars"][2 * i], P["scalars"][2 * i + 1]
        groups = P["qk_bank"][H * b : H * (b + 1)]  # H/2 pairs of query heads, then of key heads
        W_q, W_k = groups[: H // 2].reshape(D, D), groups[H // 2 :].reshape(D, D)
        W_v, W_o = P["vo_bank"][2 * b], P["vo_bank"][2 * b + 1]
        q, k = rms(heads(a0 * a_in @ W_q.T)), rms(heads(a0 * a_in @ W_k.T))
        v = heads(a0 * a_in @ W_v.T)
        if extra is not None:
            v = v + extra
        o = torch.zeros(T, H, C)
        rotated_q, rotated_k = torch.zeros(T, H, C), torch.zeros(T, H, C)
        if i in (0, 2, 5, 9):
            for slot in range(H // 2):
                # rows 2t and 2t + 1 hold heads slot and slot + H/2
                def interleave(y: Tensor, slot: int = slot) -> Tensor:
                    return torch.stack([y[t, h] for t in range(T) for h in (slot, slot + H // 2)])

                def rotated(y: Tensor) -> Tensor:
                    return torch.stack(
                        [
                            torch.stack(
                                [turn(y[t, h], 2 * t + h % 2, frequencies) for h in range(H)]
                            )
                            for t in range(T)
                        ]
                    )

                doubled = [d for d in document for _ in (0, 1)]
                both = softmax_attention(
                    interleave(rotated(q)), interleave(rotated(k)), interleave(v), doubled,
                    windows[i],
                )  # fmt: skip
                o[:, slot], o[:, slot + H // 2] = both[0::2], both[1::2]
        else:
            for h in range(H):
                qh = torch.stack([turn(q[t, h], t, frequencies) for t in range(T)])
                kh = torch.stack([turn(k[t, h], t, frequencies) for t in range(T)])
                if i in (3, 10):
                    old = kh.clone()
                    kh[1:, C // 2 :] = old[:-1, C // 2 :]
                o[:, h] = softmax_attention(qh, kh, v[:, h], document, windows[i])
                rotated_q[:, h], rotated_k[:, h] = qh, kh
            if i == 10 and cfg.composed_heads:
                o = composed(o, rotated_q, rotated_k, v)
            if i in ((1, 3, 4, 7) if gated else (1, 3, 4, 7, 8, 10)):
                for h in range(H):
                    unit = v[:, h] / v[:, h].norm(dim=-1, keepdim=True).clamp(min=1e-4)
                    along = (o[:, h] * unit).sum(-1, keepdim=True)
                    o[:, h] = o[:, h] - torch.tanh(xsa_alpha[i][:, h, None]) * along * unit
        if not gated:
            o = o * torch.sigmoid(a_in[:, :12] @ P["attn_gate_bank"][b].T)[..., None]
        elif i in (3, 10):
            o = o * out_gate[i][..., None]
        return o.reshape(T, D) @ (a1 * W_o).T

    def composed(base: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Token by token: the heads' local attention weights, mixed and applied again."""
        out = base.clone()
        w1 = compose_1 / (compose_1.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        for t in range(T):
            near = range(max(0, t - cfg.compose_window + 1), t + 1)
            seen = [s for s in near if document[s] == document[t]]
            A = sum(w1[t, h] * torch.softmax(SCALE * (k[seen, h] @ q[t, h]), 0) for h in range(H))
            for h in range(H):
                out[t, h] = base[t, h] + compose_2[t, h] * (A @ v[seen, h])
        return out

    def mlp(i: int, y: Tensor) -> Tensor:
        up, down = P["mlp_bank"][i]
        return (rms(y) @ up.T).clamp(min=0) ** 2 @ down

    def mudd(block: int, n: int, y: Tensor) -> list[Tensor]:
        hidden = F.gelu(y @ P["mudd_w1"][block].T)
        mu = 0.1 * (hidden @ P["mudd_w2"][block][:n].T + P["mudd_b2"][block][:n])
        return [mu[:, j : j + 1] for j in range(n)]

    c3 = c7 = compose_1 = compose_2 = None
    for i in range(10):
        if i == 4 and gated:
            late = gate_columns(1, 5 * H + 11, x)
            xsa_alpha[4], xsa_alpha[7] = late[:, :H], late[:, H : 2 * H]
            out_gate[10] = late[:, 2 * H : 3 * H]
            for n, j in enumerate((4, 5, 7, 8, 9)):
                x0_gate[j] = late[:, 3 * H + 2 * n, None]
                bigram_gate[j] = late[:, 3 * H + 2 * n + 1, None]
            skip = torch.sigmoid(skip_lambda) * late[:, 3 * H + 10]
            compose_1, compose_2 = late[:, 3 * H + 11 : 4 * H + 11], late[:, 4 * H + 11 :]
        if i == 6:
            x = x + skip[:, None] * c3
        else:
            a_in = rms(x) if i <= 7 else rms(c7)
            extra = None
            if i in table_of:
                value = VE[table_of[i]]
                seen = torch.cat([a_in[:, :6], value[:, :6]], -1)
                gate = 2 * torch.sigmoid(seen @ P["ve_gate_bank"][table_of[i]].T)
                extra = gate[..., None] * heads(value)
            y = attention(i, a_in, extra)
            x = P["resid_lambdas"][i, 0] * x + P["post_lambdas"][i, 0] * y + x0_gate[i] * x0
            if i >= 1:
                x = x + bigram_gate[i] * wide_g
        x = P["resid_lambdas"][i, 1] * x + P["post_lambdas"][i, 1] * mlp(i, x)
        if i == 3:
            c3 = x
        if i == 7:
            c7 = x
    c9 = x
    mu = mudd(0, 14, c9)
    v_mudd = mu[0] * c0 + mu[1] * c7 + mu[2] * c9
    gates = torch.cat([mu[6]] * (H // 2) + [mu[7]] * (H // 2), -1)
    extra = gates[..., None] * heads(VE[4]) + heads(v_mudd)
    x = (1 + mu[5]) * x + mu[3] * c0 + mu[4] * c7
    y = attention(10, rms(c7), extra)
    x = mu[8] * x + mu[9] * y + mu[10] * c0 + mu[11] * wide_g
    x = mu[12] * x + mu[13] * mlp(10, x)
    mu = mudd(1, 5, x)
    x = x + mu[0] * c0 + mu[1] * c7 + mu[2] * c9 + mu[3] * VE[0] + mu[4] * c3
    return rms(x)


def reading_losses(x: Tensor, head: Tensor, targets: Tensor, weights: list[float]) -> Tensor:
    z = 23 / (1 + torch.exp(-(x @ head + 5) / 7.5))
    log_p = z - z.exp().sum(-1, keepdim=True).log()
    loss = torch.zeros(len(x))
    for k, w in enumerate(weights):
        for t in range(len(x) - k):
            loss[t] -= w * log_p[t, targets[t + k]]
    return loss


# ---------------------------------------------------------------------------- tests


AFTER_84 = {
    "84": {},
    "85": {"gated_mudd": True, "composed_heads": True, "compose_window": 30, "bigram_dim": 32},
}


@pytest.mark.parametrize(("heads", "record"), [(2, "84"), (4, "84"), (2, "85")])
def test_forward_equals_the_reading(heads: int, record: str) -> None:
    cfg = tiny_config(num_heads=heads, model_dim=16 * heads, **AFTER_84[record])
    model = random_model(cfg)
    batch = some_batch(cfg)
    expected = reading(model, cfg, batch)
    x, _ = model.trunk(
        batch.tokens, batch.cu_seqlens, batch.bigram_rows, True, SHORT, LONG, T, SCALE
    )
    torch.testing.assert_close(x, expected, rtol=0, atol=3e-4)
    for weights in ([1.0], [1.0, 0.4], [1.0, 0.5, 0.2]):
        losses = losses_of(model, batch, torch.tensor(weights))
        wanted = reading_losses(expected, model.lm_head, batch.targets, weights)
        torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-4)
    wanted = reading_losses(expected, model.lm_head, batch.targets, [1.0])
    torch.testing.assert_close(losses_of(model, batch, None), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("record", ["84", "85"])
def test_every_used_parameter_gets_a_gradient(record: str) -> None:
    cfg = tiny_config(**AFTER_84[record])
    model = random_model(cfg)
    losses_of(model, some_batch(cfg), torch.tensor([1.0, 0.5, 0.25])).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.shape == p.shape, name
        assert p.grad.is_contiguous(), name
        assert p.grad.abs().sum() > 0, name
    A, H = 10, cfg.num_heads
    assert not model.qk_bank.grad[A * H :].any()  # padding
    assert not model.vo_bank.grad[2 * A :].any()
    assert not model.mlp_bank.grad[11].any()


SENSITIVE = {
    "mudd": "mudd_w2", "xsa": "xsa_alphas", "bigram": "bigram_embed", "smear": "smear_gate",
    "value_embeds": "value_embeds",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["mudd", "xsa", "bigram", "bigram_sign", "value_embeds", "paired_heads", "key_offset", "smear",
     "gates", "skip"],
)  # fmt: skip
def test_switching_a_technique_off_changes_the_model_and_still_trains(name: str) -> None:
    full, cfg = tiny_config(), tiny_config(**{name: False})
    model, ablated = random_model(full), random_model(cfg)
    own = dict(model.named_parameters())
    assert (SENSITIVE.get(name) in own) == (name in SENSITIVE)
    with torch.no_grad():
        for n, p in ablated.named_parameters():
            if n in own and p.shape == own[n].shape:
                p.copy_(own[n])
    if SENSITIVE.get(name):
        assert SENSITIVE[name] not in dict(ablated.named_parameters())
    batch = some_batch(full)
    weights = torch.tensor([1.0])
    a, b = losses_of(model, batch, weights), losses_of(ablated, batch, weights)
    assert (a - b).abs().max() > 1e-3
    b.sum().backward()
    assert all(p.grad is not None for p in ablated.parameters())
    small.Optimizer(ablated, cfg, small.Schedule(cfg), small.Comms(0, 1), 8).step(1)


def test_causal() -> None:
    """Changing token 40 changes nothing before 40, and something at and after it."""
    cfg = tiny_config()
    model = random_model(cfg)
    tokens = random_documents(T + 1, mean=12)
    other = tokens.copy()
    other[40] = other[40] % 95 + 1 if other[40] else 0
    assert other[40] != tokens[40]
    a, b = (
        model.trunk(x.tokens, x.cu_seqlens, x.bigram_rows, False, SHORT, LONG, T, SCALE)[0]
        for x in (small.unaligned_batch(t, cfg, CPU) for t in (tokens, other))
    )
    assert torch.equal(a[:40], b[:40])
    assert not torch.equal(a[40], b[40])


def test_a_document_leaks_into_the_next_only_through_its_last_tokens() -> None:
    """Smear, key offset, bigram and sign hashes look one token back across a border; chained
    through the layers that reaches few tokens. Attention itself must not cross: a change far back
    in document one may not touch document two."""
    cfg = tiny_config()
    model = random_model(cfg)
    tokens = random_documents(T + 1, mean=12)
    tokens[:] = np.where(tokens == 0, 1, tokens)
    tokens[[0, 32]] = 0
    other = tokens.copy()
    other[:16] = np.where(other[:16] == 0, 0, (other[:16] + 6) % 95 + 1)
    a, b = (
        model.trunk(x.tokens, x.cu_seqlens, x.bigram_rows, False, SHORT, LONG, T, SCALE)[0]
        for x in (small.unaligned_batch(t, cfg, CPU) for t in (tokens, other))
    )
    # attention in document one spreads the change to token 31, whose value nobody in document two
    # may read except through the offset half of its key and the smear of its raw embedding
    assert not torch.allclose(a[31], b[31])
    no_offset = small.replace(cfg, key_offset=False)
    without = random_model(no_offset)
    a2, b2 = (
        without.trunk(x.tokens, x.cu_seqlens, x.bigram_rows, False, SHORT, LONG, T, SCALE)[0]
        for x in (small.unaligned_batch(t, no_offset, CPU) for t in (tokens, other))
    )
    assert not torch.equal(a2[31], b2[31])
    assert torch.equal(a2[32:], b2[32:])


def test_dense_attention_window_is_inclusive_and_stays_in_the_document() -> None:
    """Keys t - window .. t: with equal scores the output is the mean of exactly those values."""
    q = k = torch.zeros(12, 1, 4)
    v = torch.arange(12.0).view(12, 1, 1).expand(12, 1, 4)
    cu = torch.tensor([0, 7, 7, 12, 12], dtype=torch.int32)
    out = small.dense_attention(q, k, v, cu, 7, 1.0, 3)[:, 0, 0]
    expected = [
        np.mean([s for s in range(max(0, t - 3), t + 1) if (s < 7) == (t < 7)]) for t in range(12)
    ]
    assert out.tolist() == pytest.approx(expected)


def test_dense_attention_in_blocks_equals_one_block() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2100, 2, 8).unbind(0)
    cu = torch.tensor([0, 1000, 1500, 2100], dtype=torch.int32)
    out = small.dense_attention(q, k, v, cu, 1000, 0.3, 700)
    document = torch.bucketize(torch.arange(2100), cu, right=True)
    distance = torch.arange(2100)[:, None] - torch.arange(2100)
    seen = (distance >= 0) & (distance <= 700) & (document[:, None] == document)
    scores = (0.3 * torch.einsum("qhc,khc->hqk", q, k)).masked_fill(~seen, float("-inf"))
    expected = torch.einsum("hqk,khc->qhc", scores.softmax(-1), v)
    torch.testing.assert_close(out, expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_dense_attention() -> None:
    """FlexAttention, eager on the CPU: same block mask, same result, also for odd lengths."""
    torch.manual_seed(0)
    for total, window in ((384, 100), (300, 40)):
        q, k, v = torch.randn(3, total, 2, 16).unbind(0)
        cu = torch.tensor([0, 90, 90, 250, total, total], dtype=torch.int32)
        flex = small.flex_attention_varlen(q, k, v, cu, total, 0.2, window)
        torch.testing.assert_close(
            flex, small.dense_attention(q, k, v, cu, total, 0.2, window), rtol=1e-4, atol=1e-5
        )


def test_head_loss_gradient_against_finite_differences() -> None:
    """d loss / d x of the multi-token loss in fp64, through the head as the CPU runs it."""
    torch.manual_seed(0)
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    head = torch.randn(8, 11, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, 3, 7, 0, 10])
    weights = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: small.mtp_cross_entropy_reference(a @ b, targets, weights), (x, head)
    )
    losses = small.mtp_cross_entropy_reference(x @ head, targets, weights)
    wanted = reading_losses(x.detach().float(), head.detach().float(), targets, weights.tolist())
    torch.testing.assert_close(losses.float(), wanted, rtol=1e-5, atol=1e-5)


def test_gates_start_as_the_static_program_does() -> None:
    """With their initial biases the gates of #85 are constants: x0 0, bigram 0.05, skip 0.5, XSA
    0, output gate 0.25 on layers 3 and 10, composition without effect."""
    first, second = small.gate_init(6)
    assert (len(first), len(second)) == (26, 41)
    assert first[12:18] == [0.25] * 6
    assert first[18:] == [0, 0.05] * 4
    assert second[18:28] == [0, 0.05] * 5
    assert second[28] == 0.5
    assert second[29:] == [1.0] * 6 + [0.0] * 6
    cfg = tiny_config(**AFTER_84["85"])
    model = small.GPT(cfg, CPU)
    x = torch.randn(T, cfg.model_dim)
    for block, wanted in enumerate(small.gate_init(cfg.num_heads)):
        gates = model.gate_block(block, x, len(wanted))
        torch.testing.assert_close(gates, torch.tensor(wanted).expand(T, -1))


def test_composition_with_padding_and_several_blocks() -> None:
    """300 tokens are three blocks of queries; the same sum, token by token."""
    torch.manual_seed(0)
    n, window = 300, 112
    base, q, k, v = torch.randn(4, n, 2, 8).unbind(0)
    w1, w2 = torch.randn(2, n, 2).unbind(0)
    cu = torch.tensor([0, 50, 230, n, n], dtype=torch.int32)
    out = small.compose_heads(base, q, k, v, w1, w2, cu, 0.3, window)
    mix = w1 / (w1.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    for t in (0, 49, 50, 130, 161, 229, 230, 299):
        start = max(s for s in (0, 50, 230) if s <= t)
        seen = list(range(max(start, t - window + 1), t + 1))
        A = sum(mix[t, h] * torch.softmax(0.3 * (k[seen, h] @ q[t, h]), 0) for h in range(2))
        for h in range(2):
            wanted = base[t, h] + w2[t, h] * (A @ v[seen, h])
            torch.testing.assert_close(out[t, h], wanted, rtol=1e-4, atol=1e-5)


def test_prefix_term() -> None:
    """w_p (LSE - z[prefix of the target]) where there is a prefix, and nothing elsewhere."""
    cfg = tiny_config(prefix=True)
    model = random_model(cfg)
    batch = some_batch(cfg)
    weights, extra = torch.tensor([1.0, 0.5]), torch.tensor([0.25])
    arguments = (
        batch.tokens, batch.targets, batch.cu_seqlens, batch.bigram_rows, weights,
        SHORT, LONG, T, SCALE,
    )  # fmt: skip
    plain = model(*arguments)
    assert torch.equal(model(*arguments, extra), plain)  # no table yet: no term
    table = torch.full((96,), -1)
    table[10:] = torch.arange(86)
    model.prefix_of.copy_(table)
    x = model.trunk(*arguments[:1], *arguments[2:4], True, SHORT, LONG, T, SCALE)[0]
    z = 23 / (1 + torch.exp(-(x @ model.lm_head + 5) / 7.5))
    log_p = z.log_softmax(-1)
    torch.testing.assert_close(
        model(*arguments, extra) - plain,
        torch.where(
            table[batch.targets] >= 0,
            -0.25 * log_p.gather(1, table[batch.targets].clamp(min=0)[:, None])[:, 0],
            0.0,
        ),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


def test_prefixes_of_a_small_vocabulary() -> None:
    words = [b"a", b"b", b"ab", b"abcd", b"abc", b"bc", b"c", b"\xff", b"ac"]
    assert small.prefixes_of(words, 12) == [-1, -1, 0, 4, 2, 1, -1, -1, 0, -1, -1, -1]


def test_prefix_weights() -> None:
    schedule = small.Schedule(small.record_config(88))
    assert [schedule.prefix_weight(s) for s in (0, 422, 423, 635, 847, 1284)] == [
        0.25, 0.25, 0.25, pytest.approx(0.125), None, None,
    ]  # fmt: skip
    assert small.Schedule(small.Config()).prefix_weight(0) is None


def test_fp8_copies_of_the_up_matrices() -> None:
    """Scale max|U| / 448 rounded to bf16, the same rounded number in both uses."""
    cfg = tiny_config(dtype="bfloat16", fp8_mlp=True)
    model = random_model(cfg)
    model.quantize_mlp()
    up = model.mlp_bank.detach()[:, 0].float()
    for i in range(12):
        scale = (up[i].abs().max() / 448).bfloat16().float()
        assert model.up_scale[i] == scale
        back = model.up_fp8[i].float() * scale
        assert (back - up[i]).abs().max() <= up[i].abs().max() / 16  # e4m3 has 3 mantissa bits


INTERPRETED = """
import sys
import torch
sys.path.insert(0, {root!r})
from tests.candidates.test_small_kernels import repair_interpreter
from tests.candidates.test_small_model import LONG, SCALE, SHORT, T, some_batch, small, tiny_config
repair_interpreter()
results = []
for changes in (
    dict(),
    dict(fp8_mlp=True, fp8_head=True, relu2_kernel=True),
    dict(fp8_mlp=True, fp8_head=True, relu2_kernel=True, fp8_down=True, prefix=True),
):
    cfg = tiny_config(dtype="bfloat16", model_dim=64, mlp_dim=128, **changes)
    torch.manual_seed(0)
    model = small.GPT(cfg, torch.device("cpu"))
    g = torch.Generator().manual_seed(1)
    sizes = dict(mlp_bank=0.1, lm_head=0.3, embed=0.3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            p.copy_(sizes[name] * noise if name in sizes else 0.02 * noise)
    model.quantize_mlp()
    batch = some_batch(cfg)
    if cfg.fp8_down:
        model.post_scale.fill_(0.05)
    losses = model(
        batch.tokens, batch.targets, batch.cu_seqlens, batch.bigram_rows,
        torch.tensor([1.0, 0.5, 0.25]), SHORT, LONG, T, SCALE,
        torch.tensor([0.25]) if cfg.prefix else None,
    )
    losses.sum().backward()
    results.append((losses.detach(), {{n: p.grad.float() for n, p in model.named_parameters()}}))
    if cfg.fp8_down:
        assert (model.post_scale > 0).all() and (model.post_scale != 0.05).all()
        model.quantize_mlp(exact=False)
(wanted, grads), *others = results
for losses, got in others:
    assert (losses - wanted).abs().mean() < 0.1, (losses - wanted).abs().mean()
    for name in ("lm_head", "embed", "qk_bank", "vo_bank", "mlp_bank"):
        error = (got[name] - grads[name]).norm() / grads[name].norm()
        assert error < 0.25, (name, error)
print("same")
"""


@pytest.mark.slow
def test_fp8_paths_of_the_whole_model_in_the_interpreter(tmp_path: Path) -> None:
    """The programs of #84 and #89 with their own kernels, against the same model in bf16."""
    pytest.importorskip("triton", reason="the kernels need Triton")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERPRETED.format(root=str(ROOT))],
        capture_output=True, text=True, timeout=200, cwd=tmp_path,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.endswith("same\n"), done.stderr[-3000:]


def test_whole_model_traces_as_one_graph() -> None:
    """fullgraph, forward and backward, in training and in evaluation; same numbers."""
    cfg = tiny_config()
    model = random_model(cfg)
    batch = some_batch(cfg)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    weights = torch.tensor([1.0, 0.5])
    eager = losses_of(model, batch, weights)
    eager.sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    traced = losses_of(compiled, batch, weights)
    traced.sum().backward()
    torch.testing.assert_close(traced, eager)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, grads[n], msg=n)
    torch._dynamo.reset()
