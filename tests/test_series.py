"""A series in this process: full disks, exclusions, an interrupt, bytes that are no text."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import harness.series as series_module
from harness.bundle import BundlePaths, read_bundle
from harness.errors import UnfitError
from harness.ledger import Ledger, Started
from harness.plan import Plan
from harness.series import MAX_EXCLUSIONS, Series, SeriesInterruptedError
from harness.submission import Prepared, Request, open_bundle, prepare
from harness.verdict import judge
from harness.watcher import Silent
from tests.support.contest import Contest


@dataclass
class Bench:
    """A planned series of two counted pairs, nothing of it run."""

    prepared: Prepared
    paths: BundlePaths
    ledger: Ledger
    stop: threading.Event

    @property
    def plan(self) -> Plan:
        return self.prepared.plan

    def run(self, **environment: str) -> None:
        Series(
            paths=self.paths,
            plan=self.plan,
            track=self.prepared.track,
            ledger=self.ledger,
            watcher=Silent(),
            parent_environment={"PATH": os.environ["PATH"], **environment},
            caches={"candidate": None, "baseline": None},
            stop=self.stop,
        ).run()

    def kinds(self) -> list[str]:
        """Events as they stand on disk, in a chain that holds."""
        return [event.event for event in Ledger.open(self.paths.ledger).events]


@pytest.fixture
def bench(
    contest: Contest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Bench]:
    """Parametrized indirectly: fields of the request for it."""
    monkeypatch.chdir(contest.root)
    # An own folder for working copies: other tests run beside this one and leave theirs in /tmp.
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    # Sampling is tested elsewhere, and its process takes longer than a fake run.
    monkeypatch.setattr(series_module, "TelemetrySampler", lambda path: nullcontext())
    asked = Request(track="track.toml", design="fixed", runs=2, seed=1, python=sys.executable)
    prepared = prepare(replace(asked, **getattr(request, "param", {})))
    paths, ledger = open_bundle(prepared)
    yield Bench(prepared, paths, ledger, threading.Event())
    assert not list(scratch.iterdir())


WHOLE = ["planned", *["started", "finished"] * 6, "looked", "closed"]


def test_a_whole_series(bench: Bench) -> None:
    bench.run()
    assert bench.kinds() == WHOLE
    assert read_bundle(bench.paths.root).problems == ()
    bench.run()
    assert bench.kinds() == WHOLE, "a closed series is not gone on with"


@pytest.mark.parametrize("bench", [{"warm_up": False}], indirect=True)
def test_a_series_without_a_warm_up_pair(bench: Bench) -> None:
    bench.run()
    assert bench.kinds() == ["planned", *["started", "finished"] * 4, "looked", "closed"]
    bundle = read_bundle(bench.paths.root)
    assert bundle.problems == ()
    assert [run.pair for run in bundle.runs] == [1, 1, 2, 2]
    assert all(run.counts for run in bundle.runs)
    first, second = bench.plan.pairs
    assert [run.arm for run in bundle.runs] == [*first.order, *second.order]
    verdict = judge(bundle)
    status = {check.id: check.status for check in verdict.checks}
    assert (status["design"], status["conduct"], status["evidence"]) == ("pass",) * 3
    assert verdict.candidate.n == 2


@pytest.mark.parametrize("where", ["mkdtemp", "copytree"])
def test_no_room_for_a_working_copy_starts_no_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile if where == "mkdtemp" else shutil, where, full)
        with pytest.raises(UnfitError, match="working copy") as caught:
            bench.run()
    assert "No space left" in caught.value.why
    assert bench.kinds() == ["planned"], "no run was started, so none is lost"
    bench.run()
    assert bench.kinds() == WHOLE


def test_a_ledger_that_cannot_be_written_stops_the_series(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Ledger.append

    def full(self: Ledger, kind: type, **fields: object) -> None:
        if len(self.events) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, kind, **fields)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", full)
        with pytest.raises(UnfitError, match="ledger cannot be written") as caught:
            bench.run()
    assert "--resume" in caught.value.fix
    assert bench.kinds() == ["planned", "started", "finished", "started"]


def test_a_stop_between_runs(bench: Bench) -> None:
    bench.stop.set()
    with pytest.raises(SeriesInterruptedError):
        bench.run()
    assert bench.kinds() == ["planned", "interrupted"]
    bench.stop.clear()
    bench.run()
    assert bench.kinds() == ["planned", "interrupted", *WHOLE[1:]]


def hot(bench: Bench, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The first `times` runs report a hardware slowdown."""
    left = [times]

    def summarise(text: str) -> Any:
        left[0] -= 1
        return SimpleNamespace(hw_slowdown=left[0] >= 0, foreign_processes=0)

    class Sampler:
        def __init__(self, path: Path) -> None:
            path.write_text("")

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(series_module, "TelemetrySampler", Sampler)
    monkeypatch.setattr(series_module, "summarise_csv", summarise)


def test_an_excluded_run_is_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    hot(bench, monkeypatch, 3)
    bench.run()
    kinds = bench.kinds()
    assert kinds.count("excluded") == 3
    started = [e for e in bench.ledger.events if isinstance(e, Started)]
    # The warm-up pair has warmed up, excluded or not; the third run is a counted one.
    assert [e.attempt for e in started] == [1, 1, 1, 2, 1, 1, 1]
    assert started[3].run_id == f"{started[2].run_id}-attempt2"


def test_a_node_that_does_not_hold_still(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    hot(bench, monkeypatch, 99)
    with pytest.raises(UnfitError, match="does not hold still"):
        bench.run()
    assert bench.kinds().count("excluded") == MAX_EXCLUSIONS + 1


def test_variables_that_are_no_text_do_not_stop_a_series(bench: Bench) -> None:
    bench.run(CUDA_HOME=os.fsdecode(b"/opt/caf\xe9"), LC_NAME="zwei\u2028Zeilen")
    assert bench.kinds() == WHOLE
    (first, *_) = [e for e in Ledger.open(bench.paths.ledger).events if isinstance(e, Started)]
    assert first.environment["CUDA_HOME"] == "/opt/caf\\xe9"
    assert first.environment["LC_NAME"] == "zwei\u2028Zeilen"


def test_a_run_cannot_touch_the_evidence_through_its_own_folder(
    bench: Bench, contest: Contest
) -> None:
    source = bench.paths.source("candidate") / "fake.py"
    before = source.read_bytes()
    bench.run()
    assert source.read_bytes() == before
    assert [path.name for path in bench.paths.source("candidate").iterdir()] == ["fake.py"]
