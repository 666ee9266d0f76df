"""A hub on loopback, no waiting between attempts, a quiet progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.data import retry
from harness.data.progress import ByteBar
from harness.terminal import Terminal
from tests.data.hub_server import HubServer, serving
from tests.data.shards import contents


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving(contents()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def bar() -> ByteBar:
    return ByteBar(Terminal())
