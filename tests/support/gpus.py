"""Put the pretended NVML in place of the real one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

FAKE = Path(__file__).parent / "fake_nvml"


def pretend(monkeypatch: pytest.MonkeyPatch, **state: Any) -> None:
    """GPUs as `state` says (see fake_nvml/pynvml.py), here and in child processes."""
    monkeypatch.setenv("FAKE_NVML", json.dumps(state))
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    spec = importlib.util.spec_from_file_location("pynvml", FAKE / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "pynvml", module)


def pretend_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """No driver at all."""
    pretend(monkeypatch, init_error="NVML Shared Library Not Found")
