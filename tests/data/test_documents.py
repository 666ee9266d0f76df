"""Cutting text files into documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data import documents as module
from harness.data.documents import Form, documents
from harness.errors import UsageError


def cut(path: Path, text: str | bytes, form: Form, field: str = "text") -> list[str]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(documents(path, form, field))


def test_forms(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    assert cut(path, "one\n\ntwo", "file") == ["one\n\ntwo"]
    assert cut(path, "one\nmore\n \t\n\n\ntwo\n", "blank-line") == ["one\nmore", "two"]
    assert cut(path, "one<|endoftext|>two<|endoftext|>", "endoftext") == ["one", "two"]
    assert cut(path, "one\r\n\r\ntwo\rthree", "blank-line") == ["one", "two\nthree"]
    assert cut(path, "  \n\n \n", "blank-line") == []
    lines = '{"text": "a\\u2028b", "id": 1}\n\n{"text": "c"}'
    assert cut(path, lines, "jsonl") == ["a\u2028b", "c"]
    assert cut(path, '{"body": "x"}', "jsonl", field="body") == ["x"]


def test_auto(tmp_path: Path) -> None:
    assert cut(tmp_path / "a.txt", "one\n\ntwo", "auto") == ["one\n\ntwo"]
    assert cut(tmp_path / "a.txt", "one<|endoftext|>two", "auto") == ["one", "two"]
    assert cut(tmp_path / "a.jsonl", '{"text": "x<|endoftext|>y"}', "auto") == ["x<|endoftext|>y"]


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ('{"text": "a"}\n{"text": 3}', ":2", "is no string"),
        ('{"txt": "a"}', ":1", "no field 'text'"),
        ("[1]", ":1", "indices"),
        ("{", ":1", "Expecting"),
        ("null", ":1", "subscriptable"),
        ("[" * 100_000, ":1", "recursion"),
    ],
)
def test_bad_json_lines(tmp_path: Path, text: str, where: str, why: str) -> None:
    with pytest.raises(UsageError, match="not JSON lines with a text") as caught:
        cut(tmp_path / "a.jsonl", text, "jsonl")
    assert caught.value.where.endswith(where)
    assert why in caught.value.why


def test_bad_encoding_and_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        cut(tmp_path / "a.txt", b"fine \xff\xfe", "file")
    with pytest.raises(UsageError, match="not UTF-8"):
        cut(tmp_path / "a.txt", "é".encode()[:1], "file")  # cut in a character
    with pytest.raises(UsageError, match="cannot be read"):
        list(documents(tmp_path / "nope", "file"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.sampled_from("a é\n\n<|endof>"), min_size=1), max_size=8),
    size=st.integers(1, 30),
)
def test_pieces_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], size: int
) -> None:
    """However the file is read, the documents are those of the whole text."""
    monkeypatch.setattr(module, "PIECE_CHARS", size)
    whole = module.MARK.join(texts)
    expected = [text for text in whole.split(module.MARK) if text.strip()]
    assert cut(tmp_path / "a.txt", whole, "endoftext") == expected
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    assert cut(tmp_path / "a.jsonl", lines, "jsonl") == [text for text in texts if text.strip()]
    blocks = [text.strip() for text in module.BLANK_LINE.split(whole) if text.strip()]
    assert cut(tmp_path / "a.txt", whole, "blank-line") == blocks
