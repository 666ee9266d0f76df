"""`speedrun retime` on the fake contest: whole nights, and every way a night can end."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.canonical import sha256_file
from harness.nightly.table import COLUMNS, NightlyRow, append_rows, read_table
from tests.support.contest import Contest, write_trainer
from tests.support.nightly import make_history

REFERENCE = """
import json, sys
print("processes", *sys.argv[1:])
print(json.dumps({"reference": "fake", "parts_ms": {"copy": 4.0, "matmul": 9.0}}))
"""


@pytest.fixture
def nightly(contest: Contest) -> Contest:
    """The fake contest with a reference workload beside its record."""
    (contest.root / "baseline" / "reference_cpu.py").write_text(REFERENCE)
    return contest


def retime(contest: Contest, *arguments: str) -> subprocess.CompletedProcess[str]:
    return contest.run("retime", "--track", "track.toml", *arguments)


def table(contest: Contest) -> Path:
    return contest.root / "results" / "nightly" / "fake.csv"


def nights(contest: Contest) -> list[Path]:
    return sorted((contest.root / "results" / "nightly").glob("*_fake*"))


def state(contest: Contest) -> dict[str, Any]:
    return json.loads((nights(contest)[-1] / "night.json").read_text())


def test_a_night_from_command_to_table(nightly: Contest) -> None:
    done = retime(nightly, "--json", "--issue-text", "issue.md")
    assert done.returncode == 0, done.stderr
    rows = read_table(table(nightly))
    assert [(row.kind, row.run) for row in rows] == [
        ("warm-up", 1),
        ("reference", 1),
        ("record", 1),
        ("record", 2),
        ("reference", 2),
        ("reference", 3),
        ("record", 3),
    ]
    assert [row.counts for row in rows] == [False, *[True] * 6]
    record, reference = rows[2], rows[1]
    assert record.train_ms == pytest.approx(80, rel=0.01)
    assert record.loss_nats == pytest.approx(3.278, abs=0.01)
    assert record.steps == 1000
    assert reference.train_ms == pytest.approx(6.0)  # the geometric mean of 4 and 9
    assert reference.parts() == {"copy": 4.0, "matmul": 9.0}
    assert reference.source_sha256 != record.source_sha256
    document = json.loads(done.stdout)
    assert document["exit_code"] == 0
    assert document["nights"] == 1
    assert document["nights_to_learn"] == 9
    assert len(document["runs"]) == 7
    assert document["margin"]["n"] == 4
    (folder,) = nights(nightly)
    assert folder.name == f"{datetime.now(UTC).date()}_fake"
    assert (folder / "README.md").read_text().startswith("# Nightly fake on 1 of ")
    assert (nightly.root / "issue.md").read_text().splitlines()[1] == ""
    assert json.loads((folder / "environment.json").read_text())["schema_version"] == 1


def test_the_night_folder_says_what_ran_and_its_files_are_hashed(nightly: Contest) -> None:
    retime(nightly, "--runs", "1")
    night = state(nightly)
    assert night["state"] == "ended"
    assert [run["state"] for run in night["runs"]] == ["finished"] * 3
    for run in night["runs"]:
        for name, sha256 in run["files"].items():
            assert sha256_file(nights(nightly)[0] / "runs" / name) == sha256
    # The reference gets the number of processes as its argument.
    assert night["runs"][1]["command"][-2:] == ["reference_cpu.py", "1"]
    kept = table(nightly).parent / "source" / night["sources"]["record"]["sha256"][:16] / "fake.py"
    assert kept.read_text() == nightly.baseline.read_text()


def test_every_column_is_filled_as_the_header_says(nightly: Contest) -> None:
    retime(nightly, "--runs", "1")
    with table(nightly).open(newline="") as handle:
        first = next(csv.DictReader(handle))
    assert tuple(first) == COLUMNS
    for name in ("utc", "night", "kind", "hardware_class", "node_sha256", "python", "kernel"):
        assert first[name], name
    assert first["counts"] == "no"


def test_a_second_night_adds_to_the_first(nightly: Contest) -> None:
    retime(nightly, "--runs", "1")
    before = table(nightly).read_bytes()
    done = retime(nightly, "--runs", "1")
    assert done.returncode == 0
    assert table(nightly).read_bytes().startswith(before)
    assert len(read_table(table(nightly))) == 6
    assert [path.name[-2:] for path in nights(nightly)] == ["ke", "-2"]


def past_nights(contest: Contest, count: int, **changes: Any) -> None:
    """A history that ends yesterday, on this machine, in the table; tonight's row comes after."""
    tonight = [row for row in read_table(table(contest)) if row.kind != "warm-up"]
    like = {row.kind: row for row in tonight}
    begin = datetime.now(UTC) - timedelta(days=count)
    rows = []
    for row in make_history(count, seed=2, runs=1, step=0.0):
        model = like["reference" if row.kind == "reference" else "record"]
        day = begin + timedelta(days=(datetime.fromisoformat(row.utc) - _first()).days)
        same = {
            name: getattr(model, name)
            for name in COLUMNS
            if name
            not in ("utc", "night", "kind", "run", "train_ms", "loss_nats", "counts", "note")
        }
        rows.append(
            NightlyRow(
                **{
                    **row.model_dump(),
                    **same,
                    "utc": day.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "night": f"{day.date()}_fake",
                    "train_ms": 6.0 if row.kind == "reference" else row.train_ms / 1e3,
                    **(changes if day.date() < datetime.now(UTC).date() - timedelta(1) else {}),
                }
            )
        )
    table(contest).unlink()
    append_rows(table(contest), rows)


def _first() -> datetime:
    return datetime.fromisoformat(make_history(1)[0].utc)


def test_a_slower_record_alerts_with_the_reason(nightly: Contest) -> None:
    """Twenty nights at 79.27 s with an older torch, then one and tonight at 80 s."""
    retime(nightly, "--runs", "1")
    past_nights(nightly, 20, torch="2.9.0")
    rows = read_table(table(nightly))
    yesterday = str(datetime.now(UTC).date() - timedelta(1))
    table(nightly).unlink()
    append_rows(
        table(nightly),
        [
            row.model_copy(update={"train_ms": 80.0})
            if row.night.startswith(yesterday) and row.kind == "record"
            else row
            for row in rows
        ],
    )
    done = retime(nightly, "--json", "--issue-text", "issue.md")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["alert"] is True
    (change,) = document["changes"]
    assert change["suspects"] == ["software"]
    assert change["since"] == yesterday
    assert change["shift"] == pytest.approx(80 / 79.270 - 1, abs=0.001)
    issue = (nightly.root / "issue.md").read_text()
    assert issue.startswith("Nightly fake on 1 of ")
    assert "slower since" in issue.splitlines()[0]
    assert "torch 2.9.0 → " in issue
    # The alarm is raised by tonight's rows: reading the table again says the same.
    assert retime(nightly, "--runs", "0").returncode == 1
    # The next night it is known.
    again = retime(nightly, "--runs", "1")
    assert again.returncode == 0, again.stderr
    assert "slower since" in again.stderr


def test_the_job_summary_is_written_where_github_wants_it(
    nightly: Contest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "summary.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    retime(nightly, "--runs", "1")
    assert page.read_text().startswith("before\n# Nightly fake")


def test_a_record_that_crashes_ends_the_night_after_two_runs(nightly: Contest) -> None:
    write_trainer(nightly.baseline, mode="crash")
    done = retime(nightly, "--json", "--issue-text", "issue.md")
    assert done.returncode == 5
    rows = read_table(table(nightly))
    assert [(row.kind, row.state) for row in rows] == [
        ("warm-up", "failed"),
        ("reference", "finished"),
        ("record", "failed"),
    ]
    assert "CUDA out of memory (pretended)" in rows[0].note
    document = json.loads(done.stdout)
    assert len(document["failures"]) == 2
    assert "2 runs failed" in (nightly.root / "issue.md").read_text().splitlines()[0]
    assert [run["state"] for run in state(nightly)["runs"][3:]] == ["planned"] * 4


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("nan", "not a finite number"),
        ("exit3", "exit code 3"),
        ("garbage", ""),
        ("stop-half", "not one complete run"),
        ("longline", "a line of more than 1 MiB"),
    ],
)
def test_runs_without_a_result_are_rows_with_a_reason(
    nightly: Contest, mode: str, words: str
) -> None:
    write_trainer(nightly.baseline, mode=mode)
    done = retime(nightly, "--runs", "1")
    assert done.returncode == 5, done.stderr
    (row, *_) = read_table(table(nightly))
    assert row.state == "failed"
    assert row.train_ms is None
    assert words in row.note
    assert "Traceback" not in done.stderr


def test_a_record_that_hangs_is_ended(nightly: Contest) -> None:
    nightly.baseline.write_text("import time\nprint('hello', flush=True)\ntime.sleep(600)\n")
    begun = time.monotonic()
    done = retime(nightly, "--runs", "1", "--timeout", "1.5")
    assert done.returncode == 5
    assert time.monotonic() - begun < 60
    row = read_table(table(nightly))[0]
    assert "still running" in row.note or "printed nothing" in row.note


def test_a_silent_reference_is_a_failure_that_is_said(nightly: Contest) -> None:
    (nightly.root / "baseline" / "reference_cpu.py").write_text("print('nothing')\n")
    done = retime(nightly, "--runs", "1")
    assert done.returncode == 5
    assert "neither parts\\_ms nor a result line" in done.stderr or "parts_ms" in done.stderr
    other = nightly.root / "other.py"
    other.write_text(REFERENCE)
    assert retime(nightly, "--runs", "1", "--reference", "other.py").returncode == 0


def test_what_is_unfit_or_wrong_is_said_before_anything_runs(nightly: Contest) -> None:
    for arguments, code, words in (
        (("--runs", "-1"), 2, "--runs -1"),
        (("--reference", "absent.py"), 2, "absent.py"),
        (("--python", "/no/python"), 4, "cannot be started"),
        (("--data", "absent"), 4, "not here"),
    ):
        done = retime(nightly, *arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    done = nightly.run("retime", "--track", "nothing")
    assert done.returncode == 2
    assert not (nightly.root / "results").exists()


def test_without_its_reference_or_record_there_is_no_night(contest: Contest) -> None:
    done = retime(contest)
    assert done.returncode == 2
    assert "no reference workload" in done.stderr
    contest.baseline.unlink()
    assert "no standing record" in retime(contest).stderr


def test_a_broken_table_is_found_before_a_run_is_paid_for(nightly: Contest) -> None:
    table(nightly).parent.mkdir(parents=True)
    table(nightly).write_text("what,is,this\n")
    done = retime(nightly)
    assert done.returncode == 2
    assert "fake.csv:1" in done.stderr
    assert not nights(nightly)
    assert table(nightly).read_text() == "what,is,this\n"


def test_a_track_without_its_gpus_is_unfit(tmp_path: Path, nightly: Contest) -> None:
    (nightly.root / "baseline" / "small.py").write_text(nightly.baseline.read_text())
    (nightly.root / "baseline" / "reference_gpu.py").write_text(REFERENCE)
    done = nightly.run("retime", "--runs", "1")
    assert done.returncode == 4
    assert not (nightly.root / "results").exists()


def test_reading_an_empty_table_runs_nothing(nightly: Contest) -> None:
    done = retime(nightly, "--runs", "0", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["nights"] == 0
    assert not (nightly.root / "results").exists()


def test_ctrl_c_keeps_what_has_ended(nightly: Contest) -> None:
    process = begin_slow_night(nightly)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    rows = read_table(table(nightly))
    assert [row.state for row in rows] == ["finished", "finished", "lost"]
    assert state(nightly)["state"] == "interrupted"
    assert "Traceback" not in said


def test_a_killed_night_keeps_its_rows(nightly: Contest) -> None:
    process = begin_slow_night(nightly)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert [row.state for row in read_table(table(nightly))] == ["finished", "finished"]
    assert state(nightly)["state"] == "running"
    assert state(nightly)["runs"][2]["state"] == "started"
    assert retime(nightly, "--runs", "1").returncode == 0
    assert len(read_table(table(nightly))) == 5


def begin_slow_night(contest: Contest) -> subprocess.Popen[str]:
    """A night that is in its third run, the record's first that counts."""
    write_trainer(contest.baseline, loss=3.278, sleep_s=1.2)
    process = subprocess.Popen(
        contest.command("retime", "--track", "track.toml"),
        cwd=contest.root,
        env=contest.environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if nights(contest) and (nights(contest)[0] / "runs" / "record-01.log").exists():
            time.sleep(0.2)
            return process
        time.sleep(0.05)
    raise AssertionError("the third run never began")


def test_two_at_once_on_one_machine_are_refused(nightly: Contest) -> None:
    process = begin_slow_night(nightly)
    done = retime(nightly, "--runs", "1")
    assert done.returncode == 4
    assert "another retime is running" in done.stderr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_no_secret_is_written_down(nightly: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghs_secret")
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    retime(nightly, "--runs", "1")
    everything = "".join(
        path.read_text(errors="replace")
        for path in (nightly.root / "results").rglob("*")
        if path.is_file()
    )
    assert "ghs_secret" not in everything
    assert state(nightly)["runs"][0]["environment"]["NCCL_NVLS_ENABLE"] == "0"


def test_the_record_runs_in_a_copy_and_leaves_its_folder_alone(nightly: Contest) -> None:
    text = nightly.baseline.read_text()
    nightly.baseline.write_text("open('trace.txt', 'w').write('x')\n" + text)
    retime(nightly, "--runs", "1")
    assert not list(nightly.root.rglob("trace.txt"))


@pytest.mark.slow
def test_the_references_that_come_with_the_package_run(contest: Contest) -> None:
    """The CPU workload as shipped, with one process and with two."""
    from harness.nightly.reference import parse_reference
    from tests.support.contest import ROOT

    script = ROOT / "baseline" / "reference_cpu.py"
    for count in ("1", "2"):
        done = subprocess.run(
            [*contest.command()[:1], str(script), count],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        figure = parse_reference(done.stdout)
        assert figure is not None
        assert set(figure.parts_ms) == {"python", "matmul", "copy"}
        assert all(0.01 < ms < 10_000 for ms in figure.parts_ms.values())
