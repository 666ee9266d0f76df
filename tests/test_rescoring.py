"""Where is probed, with what, and what a scorer that fails is."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.shard import shard_header
from harness.rescoring import choose_positions, read_validation, replace_after, score
from harness.runner.scorer_process import ScorerError


def text_of(count: int, seed: int = 1) -> np.ndarray:
    """Documents of about 50 tokens; 0 begins one."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, 30, count).astype(np.uint32)
    tokens[draw.integers(0, count, count // 50 + 1)] = 0
    return tokens


def test_sixteen_positions_over_all_borders() -> None:
    text = text_of(8193)
    places = choose_positions(text, 0, random.Random(3))
    assert len(places) == 16
    positions = dict(places)
    assert positions[0] == "start"
    assert positions[8191] == "last"
    kinds = list(positions.values())
    assert kinds.count("document") == 4
    assert kinds.count("border") == 6
    for position, place in places:
        if place == "document":
            assert 0 in (text[position], text[position + 1])
        if place == "border":
            assert position % 128 in (0, 127)


@given(st.integers(2, 300), st.integers(0, 99))
def test_positions_of_any_text(count: int, seed: int) -> None:
    text = text_of(count, seed)
    places = choose_positions(text, 0, random.Random(seed))
    assert 1 <= len(places) <= 16
    assert all(0 <= position <= count - 2 for position, _ in places)
    assert len(dict(places)) == len(places)


@given(st.integers(3, 200), st.data(), st.sampled_from(["one", "suffix"]))
def test_a_replacement_leaves_the_past_alone(count: int, data: st.DataObject, change: str) -> None:
    text = text_of(count, 5)
    position = data.draw(st.integers(0, count - 2))
    other = replace_after(text, position, change, random.Random(count), 0)
    assert (other[: position + 1] == text[: position + 1]).all()
    assert other[position + 1] != text[position + 1]
    later = slice(position + 2, None)
    assert (other[later] == 0).tolist() == (text[later] == 0).tolist()
    if change == "one":
        assert (other[later] == text[later]).all()


def test_the_shard_is_read_to_the_last_target(tmp_path: Path) -> None:
    path = tmp_path / "val.bin"
    path.write_bytes(shard_header(100) + np.arange(100, dtype="<u2").tobytes())
    assert read_validation(path, 49).tolist() == list(range(50))
    assert len(read_validation(path, 500)) == 100


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 2000, shard_header(50) + b"ab", shard_header(1) + b"ab", shard_header(0)],
)
def test_what_is_no_shard(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "val.bin"
    path.write_bytes(content)
    with pytest.raises(ScorerError, match=r"val\.bin"):
        read_validation(path, 10)
    with pytest.raises(ScorerError, match="cannot be read"):
        read_validation(tmp_path / "none.bin", 10)


class Bigram:
    """A scorer in this process: rows hang on the token alone, and on `leak` times the next."""

    window: int | None = None
    opened: tuple[str, ...] = ()

    def __init__(self, leak: float = 0.0, window: int | None = None) -> None:
        draw = np.random.default_rng(0)
        self.table = draw.normal(size=(30, 30))
        self.leak, self.window = leak, window
        self.asked: list[int] = []

    def load(self, *_: object) -> None:
        pass

    def finish(self) -> None:
        pass

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        following = np.append(tokens[1:], 0)
        logits = self.table[tokens] + self.leak * self.table[following]
        return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))

    def nll(self, tokens: np.ndarray) -> np.ndarray:
        self.asked.append(len(tokens))
        rows = self.rows(tokens)[:-1]
        return np.asarray(-rows[np.arange(len(rows)), tokens[1:]], dtype=np.float32)

    def logprobs(self, tokens: np.ndarray, positions: list[int]) -> np.ndarray:
        return self.rows(tokens)[positions].astype(np.float32)


def facts_of(scorer: Bigram, folder: Path, targets: int = 999):  # type: ignore[no-untyped-def]
    path = folder / "val.bin"
    tokens = text_of(1000)
    path.write_bytes(shard_header(1000) + tokens.astype("<u2").tobytes())
    (folder / "weights").write_bytes(b"w")
    return score(
        scorer,  # type: ignore[arg-type]
        script=folder / "s.py",
        checkpoint=folder / "weights",
        device="cpu",
        validation=path,
        targets=targets,
        bos=0,
        printed_nats=1.0,
    )


def test_the_mean_is_over_every_target(tmp_path: Path) -> None:
    scorer = Bigram()
    facts = facts_of(scorer, tmp_path)
    assert facts.status == "scored"
    assert facts.tokens == 999
    assert facts.mean_nats == pytest.approx(float(scorer.nll(text_of(1000)).mean()), rel=1e-6)
    assert max(probe.row_moved for probe in facts.probes) == 0
    assert max(probe.swapped_disagreement for probe in facts.probes) < 1e-6
    assert facts.repeat_moved == facts.order_moved == facts.longer_moved == 0


def test_windows_of_the_stated_length_cover_every_target_once(tmp_path: Path) -> None:
    scorer = Bigram(window=300)
    facts = facts_of(scorer, tmp_path)
    assert facts.window == 300
    assert facts.tokens == 999
    assert max(scorer.asked) == 301
    assert facts.probe_tokens == 300
    assert facts.mean_nats == pytest.approx(float(Bigram().nll(text_of(1000)).mean()), rel=1e-6)


def test_the_smallest_leak_shows(tmp_path: Path) -> None:
    facts = facts_of(Bigram(leak=0.01), tmp_path)
    assert max(probe.row_moved for probe in facts.probes) > 0.005
    assert max(p.truncated_moved or 0 for p in facts.probes) > 0.005


def test_what_is_not_finite_is_enormous(tmp_path: Path) -> None:
    scorer = Bigram()
    scorer.table[:] = np.nan
    facts = facts_of(scorer, tmp_path)
    assert facts.status == "scored"
    assert facts.mean_nats == 1e9
    assert facts.probes[0].log_sum == 1e9
