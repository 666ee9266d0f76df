"""The only door to a bundle: what is opened, what is refused, what is listed as a problem."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.bundle import Bundle, is_bundle, read_bundle, safe_path, safe_text
from harness.errors import EvidenceError, SpeedrunError, UsageError
from tests.support.tamper import Copy


@pytest.fixture
def copy(accepted: Path, tmp_path: Path) -> Copy:
    return Copy(accepted, tmp_path)


def found(bundle: Bundle) -> dict[str, str]:
    return {problem.where: problem.what for problem in bundle.problems}


# -- paths ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    (root / "runs" / "deep").mkdir(parents=True)
    (root / "runs" / "a.log").write_text("text")
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "inner").symlink_to(root / "runs" / "a.log")
    (root / "dangling").symlink_to(tmp_path / "nothing")
    (root / "linked").symlink_to(root / "runs")
    os.mkfifo(root / "pipe")
    return root


def test_a_regular_file_inside_is_opened(folder: Path) -> None:
    assert safe_path(folder, "runs/a.log") == folder / "runs" / "a.log"
    assert safe_path(folder, "./runs/./a.log").read_text() == "text"
    assert safe_text(folder, "runs/a.log") == "text"


@pytest.mark.parametrize(
    ("relative", "words"),
    [
        ("/etc/passwd", "leaves the bundle"),
        ("../secret", "leaves the bundle"),
        ("runs/../../secret", "leaves the bundle"),
        ("runs/../runs/a.log", "leaves the bundle"),
        ("..", "leaves the bundle"),
        ("runs\\..\\secret", "leaves the bundle"),
        ("", "leaves the bundle"),
        (".", "leaves the bundle"),
        ("link", "symbolic link"),
        ("inner", "symbolic link"),
        ("dangling", "symbolic link"),
        ("linked/a.log", "symbolic link"),
        ("pipe", "not a regular file"),
        ("runs", "not a regular file"),
        ("runs/deep", "not a regular file"),
        ("runs/none.log", "missing"),
        ("runs/a.log/below", "missing"),
        ("a\0b", "missing"),
        ("x" * 5000, "missing"),
        ("\udcff", "missing"),
    ],
)
def test_everything_else_is_refused(folder: Path, relative: str, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        safe_path(folder, relative)
    with pytest.raises(EvidenceError):
        safe_text(folder, relative)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "/", "runs", "link"])).map("/".join)
)
def test_no_path_leads_out(folder: Path, relative: str) -> None:
    try:
        path = safe_path(folder, relative)
    except EvidenceError:
        return
    assert path.resolve().is_relative_to(folder.resolve())
    assert path.is_file()


def test_text_is_bounded_utf8_and_untranslated(folder: Path) -> None:
    (folder / "crlf").write_bytes(b"a\r\nb\rc\n")
    assert safe_text(folder, "crlf") == "a\r\nb\rc\n"
    (folder / "latin").write_bytes(b"\xe9")
    with pytest.raises(EvidenceError, match="not UTF-8"):
        safe_text(folder, "latin")
    with pytest.raises(EvidenceError, match="larger than"):
        safe_text(folder, "crlf", limit=4)


# -- an honest bundle ----------------------------------------------------------------------------


def test_an_honest_bundle_has_no_problems(accepted: Path) -> None:
    bundle = read_bundle(accepted)
    assert bundle.problems == ()
    assert bundle.closed
    assert len(bundle.runs) == 12
    assert sum(run.counts for run in bundle.runs) == 10
    for run in bundle.runs:
        assert run.state == "finished"
        assert run.log is not None
        assert run.log.complete
        # One arrival a line, in order, within the run's life.
        assert [stamp.step for stamp in run.stamps] == [0, 250, 500, 750, 1000]
        assert all(stamp.validates for stamp in run.stamps)
        assert run.wall_s is not None
        assert 0 < run.stamps[0].arrival_s <= run.stamps[-1].arrival_s < run.wall_s + 0.5
        assert run.telemetry is not None
    assert set(bundle.sources["candidate"]) == {"fake.py"}
    assert bundle.environment is not None


def test_a_copy_reads_the_same_wherever_it_lies(accepted: Path, copy: Copy) -> None:
    assert read_bundle(accepted) == read_bundle(copy.root)


def test_what_is_a_bundle(accepted: Path, tmp_path: Path) -> None:
    assert is_bundle(accepted)
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "none")
    with pytest.raises(UsageError, match="no folder"):
        read_bundle(tmp_path / "none")


# -- problems are listed, not raised -------------------------------------------------------------


def test_every_problem_is_listed_at_once(copy: Copy) -> None:
    copy.edit("runs/candidate-01.log", "val_loss:3.", "val_loss:2.")
    copy.path("runs/baseline-02.times").unlink()
    copy.write("source/baseline/fake.py", "x = 1\n")
    copy.write("runs/candidate-77.log", "hello\n")
    copy.edit("track.toml", "alpha = 0.01", "alpha = 0.05")
    copy.edit("environment.json", '"cpu_model": "', '"cpu_model": "Better ')
    assert set(found(read_bundle(copy.root))) == {
        "runs/candidate-01.log",
        "runs/baseline-02.times",
        "source/baseline/fake.py",
        "runs/candidate-77.log",
        "track.toml",
        "environment.json",
    }


def test_a_missing_or_broken_environment_is_a_problem(copy: Copy) -> None:
    copy.path("environment.json").unlink()
    bundle = read_bundle(copy.root)
    assert bundle.environment is None
    assert found(bundle) == {"environment.json": "environment.json is missing"}
    copy.write("environment.json", "{}")
    assert "schema" in found(read_bundle(copy.root))["environment.json"]


def hang(copy: Copy, name: str) -> None:
    copy.path(name).unlink()
    os.mkfifo(copy.path(name))


def sparse(copy: Copy, name: str) -> None:
    os.truncate(copy.path(name), 10 << 30)


def link(copy: Copy, name: str) -> None:
    kept = copy.root.parent / "kept"
    copy.path(name).rename(kept)
    copy.path(name).symlink_to(kept)


def folder_instead(copy: Copy, name: str) -> None:
    copy.path(name).unlink()
    copy.path(name).mkdir()


def binary(copy: Copy, name: str) -> None:
    copy.path(name).write_bytes(os.urandom(2000))


@pytest.mark.parametrize("how", [hang, sparse, link, folder_instead, binary])
@pytest.mark.parametrize(
    "name",
    [
        "runs/candidate-01.log",
        "runs/candidate-01.times",
        "runs/candidate-01.gpu.csv",
        "source/candidate/fake.py",
        "environment.json",
    ],
)
def test_a_file_that_is_none_is_a_problem_and_never_hangs(
    copy: Copy, how: Callable[[Copy, str], None], name: str
) -> None:
    how(copy, name)
    begun = time.monotonic()
    bundle = read_bundle(copy.root)
    assert name in found(bundle)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("how", [hang, sparse, link, folder_instead, binary])
@pytest.mark.parametrize("name", ["plan.json", "ledger.jsonl", "track.toml"])
def test_without_plan_ledger_or_rules_nothing_can_be_judged(
    copy: Copy, how: Callable[[Copy, str], None], name: str
) -> None:
    how(copy, name)
    with pytest.raises(SpeedrunError) as caught:
        read_bundle(copy.root)
    assert name in str(caught.value)
    assert caught.value.exit_code in (2, 3)


def test_folders_that_are_links_are_not_entered(copy: Copy, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    copy.path("runs").rename(elsewhere)
    (elsewhere / "private name").write_text("")
    copy.path("runs").symlink_to(elsewhere)
    problems = found(read_bundle(copy.root))
    assert "symbolic link" in problems["runs/candidate-01.log"]
    assert not any("private" in where for where in problems)


def test_files_that_nobody_recorded_are_named(copy: Copy) -> None:
    copy.write("runs/candidate-01.extra", "")
    copy.path("runs/sub").mkdir()
    copy.write("runs/sub/file", "")
    copy.write("source/candidate/sitecustomize.py", "import os\n")
    copy.path("source/candidate/there").symlink_to("/etc")
    assert found(read_bundle(copy.root)) == {
        "runs/candidate-01.extra": "was not there when its run ended",
        "runs/sub/file": "belongs to no run in the ledger",
        "source/candidate/sitecustomize.py": "lies beside the source and is not in the plan",
        "source/candidate/there": "lies beside the source and is not in the plan",
    }


def test_a_plan_that_names_paths_outside_opens_none(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("x = 1")
    for path in ("../../../secret.py", str(tmp_path / "secret.py"), "a\0b"):
        copy.replan(lambda plan, path=path: plan["candidate"]["files"].update({path: "0" * 64}))
        bundle = read_bundle(copy.root)
        assert path not in bundle.sources["candidate"]
        assert any(path in where for where in found(bundle))


# -- what the ledger says of runs ----------------------------------------------------------------


def test_two_runs_in_one_log_and_none(copy: Copy) -> None:
    text = copy.text("runs/candidate-01.log")
    copy.write("runs/candidate-01.log", text + copy.text("runs/candidate-02.log"))
    assert "holds 2 runs" in found_after_rehash(copy)["runs/candidate-01.log"]
    copy.write("runs/candidate-01.log", "nothing here\n")
    assert "runs/candidate-01.log" in found_after_rehash(copy)
    assert next(r for r in read_bundle(copy.root).runs if r.run_id == "candidate-01").log is None


def found_after_rehash(copy: Copy) -> dict[str, str]:
    copy.rehash("candidate-01")
    return found(read_bundle(copy.root))


@pytest.mark.parametrize("text", ["1.0\nsoon\n", "\xff"])
def test_arrival_times_that_are_none(copy: Copy, text: str) -> None:
    copy.path("runs/candidate-01.times").write_bytes(text.encode("latin-1"))
    assert "do not fit the log" in found_after_rehash(copy)["runs/candidate-01.times"]


def test_a_finished_run_without_a_hash_of_its_log(copy: Copy) -> None:
    def forget(events: list[dict[str, object]]) -> None:
        for event in events:
            if event.get("run_id") == "candidate-01" and event["event"] == "finished":
                event["files"] = {}

    copy.rechain(forget)
    said = [p.what for p in read_bundle(copy.root).problems if p.where == "runs/candidate-01.log"]
    assert any("no hash of its log" in what for what in said)


def test_ends_without_starts_and_double_ends(copy: Copy) -> None:
    def change(events: list[dict[str, object]]) -> list[dict[str, object]]:
        finished = next(e for e in events if e["event"] == "finished")
        ghost = {**finished, "run_id": "candidate-99"}
        return [*events[:-1], dict(finished), ghost, events[-1]]

    copy.rechain(change)
    said = [problem.what for problem in read_bundle(copy.root).problems]
    assert any("ends twice" in what for what in said)
    assert any("candidate-99 ends but was never started" in what for what in said)


def test_one_id_started_twice_and_a_second_plan(copy: Copy) -> None:
    copy.rechain(lambda events: [*events[:-1], dict(events[1]), dict(events[0]), events[-1]])
    said = [problem.what for problem in read_bundle(copy.root).problems]
    assert "one run id was started twice" in said
    assert "plans a second time" in said


def test_nothing_may_follow_the_end(copy: Copy) -> None:
    copy.rechain(lambda events: [*events, {**events[-1], "event": "interrupted", "by": "x"}])
    with pytest.raises(EvidenceError, match="schema"):
        read_bundle(copy.root)  # "why" is no field of an interruption
    copy.rechain(
        lambda events: [
            *events[:-1],
            {k: v for k, v in events[-1].items() if k != "why"},
        ]
    )
    assert "goes on after the series was closed" in found(read_bundle(copy.root))["ledger.jsonl"]


def test_a_ledger_that_begins_otherwise(copy: Copy) -> None:
    copy.rechain(lambda events: events[1:])
    with pytest.raises(EvidenceError, match="does not begin with its plan"):
        read_bundle(copy.root)
    copy.write("ledger.jsonl", "")
    with pytest.raises(EvidenceError, match="does not begin with its plan"):
        read_bundle(copy.root)


def test_a_run_without_an_end_is_lost(copy: Copy) -> None:
    copy.rechain(lambda events: events[:2])
    for path in copy.path("runs").iterdir():
        if not path.name.startswith(
            json.loads(copy.text("ledger.jsonl").splitlines()[1])["run_id"]
        ):
            path.unlink()
    bundle = read_bundle(copy.root)
    (run,) = bundle.runs
    assert run.state == "lost"
    assert not bundle.closed
    assert bundle.problems == ()
