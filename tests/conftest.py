"""Isolation for every test: an own cache, no proxies, no colours; and the fake contest."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from harness.audit_report import AuditReport
from tests.support.contest import Contest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background, by CI say: children would inherit it and be deaf to Ctrl-C.
    assert threading.current_thread() is threading.main_thread()
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "DATA_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def contest(tmp_path: Path) -> Contest:
    """A fake track with an honest candidate that is 5 % faster."""
    return Contest(tmp_path)


@pytest.fixture(scope="session")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of one accepted fake series. Copy it before changing anything in it."""
    contest = Contest(tmp_path_factory.mktemp("accepted"))
    done = contest.submit("--seed", "1")
    assert done.returncode == 0, done.stderr
    return contest.bundle


@pytest.fixture(scope="session")
def mini_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA_PATH of the mini trainer (tests/support/mini_trainer.py)."""
    from tests.support.audited import make_mini_data

    return make_mini_data(tmp_path_factory.getbasetemp() / "mini")


@pytest.fixture(scope="session")
def honest_audit(tmp_path_factory: pytest.TempPathFactory, mini_data: Path) -> AuditReport:
    """The audit of the honest mini trainer, its weights scored again."""
    from tests.support.audited import HONEST, run_audit

    return run_audit(HONEST, tmp_path_factory.mktemp("honest"), mini_data)
