"""The whole of `submit`, driven by a fake trainer through every way a series can end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support.contest import Contest

FEW = ("--plan", "fixed", "--runs", "2")


def events(contest: Contest, kind: str) -> list[dict[str, object]]:
    return [event for event in contest.ledger() if event["event"] == kind]


def still_running(contest: Contest) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(contest.root) in process.environ().get("XDG_CACHE_HOME", "") + " ".join(
                process.cmdline()
            ) or process.environ().get("DATA_PATH") == str(contest.root):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_accepted_series_writes_a_whole_bundle(contest: Contest) -> None:
    done = contest.submit("--seed", "3", "--name", "faster")
    assert done.returncode == 0, done.stderr
    assert "ACCEPTED" in done.stderr
    bundle = contest.bundle
    assert bundle.name.endswith("_faster")
    for name in ("README.md", "report.html", "verdict.json", "plan.json", "environment.json"):
        assert (bundle / name).stat().st_size > 100, name
    verdict = contest.verdict()
    assert verdict["decision"] == "accepted"
    assert verdict["candidate"]["n"] == 5  # type: ignore[index]
    assert verdict["timing"]["ratio"] == pytest.approx(0.95, abs=0.01)  # type: ignore[index]
    # Twelve runs: a warm-up pair that never counts and five counted pairs.
    assert len(events(contest, "started")) == len(events(contest, "finished")) == 12
    assert [event["runs"] for event in events(contest, "looked")] == [5]
    assert contest.ledger()[-1]["event"] == "closed"
    assert (bundle / "source/candidate/fake.py").read_text() == contest.candidate.read_text()
    # Every line of every log has its arrival time.
    for log in (bundle / "runs").glob("*.log"):
        assert len(log.read_text().splitlines()) == len(
            log.with_suffix(".times").read_text().splitlines()
        )
    assert not (bundle / ".lock").exists()


def test_plan_is_on_disk_before_the_first_run(contest: Contest) -> None:
    contest.set(mode="crash")
    contest.submit(*FEW)
    first, second = contest.ledger()[:2]
    assert first["event"] == "planned"
    assert second["event"] == "started"
    plan = (contest.bundle / "plan.json").read_text()
    import hashlib

    assert first["plan_sha256"] == hashlib.sha256(plan.encode()).hexdigest()


def test_json_is_one_document_on_stdout(contest: Contest) -> None:
    done = contest.submit(*FEW, "--json")
    verdict = json.loads(done.stdout)
    assert verdict["schema_version"] == 1
    assert verdict["decision"] == contest.verdict()["decision"]


def test_slower_candidate_is_not_proven(contest: Contest) -> None:
    contest.set(ms=81)
    done = contest.submit("--plan", "fixed", "--runs", "5")
    assert done.returncode == 1, done.stderr
    assert contest.verdict()["decision"] == "not_proven"
    assert "NOT PROVEN" in done.stderr
    assert "not faster here" in done.stderr


def test_loss_above_target_is_not_proven_with_advice(contest: Contest) -> None:
    contest.set(loss=3.2795, sd=0.002)
    done = contest.submit("--plan", "fixed", "--runs", "3")
    assert done.returncode == 1, done.stderr
    assert contest.verdict()["advice"]["text"]  # type: ignore[index]


def test_baseline_rests_once_timing_is_settled(contest: Contest) -> None:
    # A margin of a tenth of a sd cannot pass; timing is settled at the first look.
    contest.set(loss=3.28, sd=0.002)
    done = contest.submit("--runs", "10")
    assert done.returncode in (0, 1), done.stderr
    started = events(contest, "started")
    looked = events(contest, "looked")
    assert looked[0]["timing_p"] < 0.0031
    after = [event for event in started if event["pair"] > 5]
    assert after, "the candidate went on after the first look"
    assert {event["arm"] for event in after} == {"candidate"}


@pytest.mark.parametrize(
    ("mode", "reason", "words"),
    [
        ("crash", "crash", "CUDA out of memory (pretended)"),
        ("exit3", "crash", "exit code 3"),
        ("nan", "divergence", "not a finite number"),
        ("garbage", "garbage", ""),
        ("stop-half", "garbage", ""),
        ("longline", "output", "a line of more than 1 MiB"),
        ("flood", "output", "more than 64 MiB"),
    ],
)
def test_bad_run_ends_clearly(contest: Contest, mode: str, reason: str, words: str) -> None:
    contest.set(mode=mode)
    done = contest.submit(*FEW)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    (failed,) = events(contest, "failed")
    assert failed["reason"] == reason
    assert words in str(failed["detail"])
    assert str(failed["run_id"]) in done.stderr
    assert contest.verdict()["decision"] == "runs_failed"
    assert contest.run("verify", str(contest.bundle)).returncode == 5


def test_hanging_run_that_ignores_sigterm_is_ended(contest: Contest) -> None:
    contest.set(mode="hang")
    begun = time.monotonic()
    done = contest.submit(*FEW, "--timeout", "2")
    assert done.returncode == 5, done.stderr
    assert time.monotonic() - begun < 40
    (failed,) = events(contest, "failed")
    assert failed["reason"] in ("timeout", "stall")
    assert not still_running(contest)


def test_forked_children_do_not_outlive_the_run(contest: Contest) -> None:
    contest.set(mode="fork")
    done = contest.submit(*FEW)
    assert "Traceback" not in done.stderr
    assert len(events(contest, "finished")) == 6
    assert not still_running(contest)


def start(contest: Contest, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        contest.command("submit", "--track", "track.toml", *arguments),
        cwd=contest.root,
        env=contest.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_run(contest: Contest, run_id: str, line: str, timeout_s: float = 60) -> None:
    """Until that run has printed `line`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        logs = list((contest.root / "results").glob(f"*/runs/{run_id}.log"))
        if logs and line in logs[0].read_text(errors="replace"):
            return
        time.sleep(0.02)
    raise AssertionError(f"{run_id} never printed {line!r}")


def test_kill_9_in_the_middle_and_resume(contest: Contest) -> None:
    contest.slow(1.0)
    process = start(contest, "--plan", "fixed", "--runs", "3", "--seed", "5")
    # Third run: the first counted one.
    wait_for_started(contest, 3)
    run_id = str(events(contest, "started")[2]["run_id"])
    wait_for_run(contest, run_id, "val_loss")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = contest.run("submit", "--resume", str(contest.bundle))
    assert done.returncode in (0, 1), done.stderr
    (lost,) = events(contest, "lost")
    assert lost["run_id"] == run_id
    assert [event["run_id"] for event in events(contest, "started")].count(
        f"{run_id}-attempt2"
    ) == 1
    rows = {row["run_id"]: row for row in contest.verdict()["runs"]}  # type: ignore[attr-defined]
    assert rows[run_id]["state"] == "lost"
    # The verdict is taken a second time with the lost run at its worst.
    timing = contest.verdict()["timing"]
    assert timing["worst_case_ratio_bound"] is not None  # type: ignore[index]
    assert not still_running(contest)


def wait_for_started(contest: Contest, count: int, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if list((contest.root / "results").glob("*/ledger.jsonl")):
            try:
                if len(events(contest, "started")) >= count:
                    return
            except json.JSONDecodeError:
                pass
        time.sleep(0.02)
    raise AssertionError(f"{count} runs were never started")


def test_ctrl_c_records_the_run_and_says_how_to_go_on(contest: Contest) -> None:
    contest.slow(5.0)
    process = start(contest, *FEW)
    wait_for_started(contest, 1)
    run_id = str(events(contest, "started")[0]["run_id"])
    wait_for_run(contest, run_id, "no result")
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert b"speedrun submit --resume" in stderr
    assert b"Traceback" not in stderr
    assert [event["run_id"] for event in events(contest, "lost")] == [run_id]
    assert contest.ledger()[-1]["event"] == "interrupted"
    assert not still_running(contest)


def test_resume_of_a_closed_series_judges_again(contest: Contest) -> None:
    assert contest.submit("--seed", "2").returncode == 0
    before = (contest.bundle / "verdict.json").read_bytes()
    done = contest.run("submit", "--resume", str(contest.bundle))
    assert done.returncode == 0, done.stderr
    assert (contest.bundle / "verdict.json").read_bytes() == before


def test_resume_refuses_a_changed_bundle(contest: Contest) -> None:
    contest.set(mode="crash")
    contest.submit(*FEW)
    source = contest.bundle / "source/candidate/fake.py"
    source.write_text(source.read_text().replace("crash", "crush"))
    done = contest.run("submit", "--resume", str(contest.bundle))
    assert done.returncode == 3, done.stderr
    assert "source/candidate/fake.py" in done.stderr


def test_dry_run_runs_nothing(contest: Contest) -> None:
    done = contest.submit("--dry-run", "--json", "--seed", "9")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["seed"] == 9
    assert not (contest.root / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere.py",), 2, "no script at nowhere.py"),
        (("track.toml",), 2, "not a Python file"),
        (("--runs", "1", "--plan", "fixed"), 2, "prove nothing"),
        (("--plan", "bayes"), 2, "no plan named"),
        (("--target", "3.3"), 4, "cannot be an official attempt"),
        (("--python", "/nonexistent/python"), 4, "/nonexistent/python"),
        (("--data", "/nonexistent"), 4, "are not here"),
        (("--nproc", "0"), 2, "starts nothing"),
        (("--resume", "nowhere"), 2, "is no bundle"),
    ],
)
def test_user_errors(contest: Contest, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = contest.submit(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "fix:" in done.stderr
    assert not (contest.root / "results").exists()


def test_broken_python_is_named_with_its_line(contest: Contest) -> None:
    contest.candidate.write_text("x = 1\nif:\n")
    done = contest.submit()
    assert done.returncode == 2
    assert "fake.py:2" in done.stderr


def test_exhibition_runs_and_says_so(contest: Contest) -> None:
    done = contest.submit("--target", "3.3", "--exhibition", "--seed", "4")
    assert done.returncode == 0, done.stderr
    assert "exhibition" in done.stderr.lower()
    assert contest.verdict()["exhibition"]
    assert "xhibition" in (contest.bundle / "README.md").read_text()
    assert "xhibition" in (contest.bundle / "report.html").read_text()


def test_other_data_are_named_on_every_page(contest: Contest) -> None:
    done = contest.submit("--data-set", "web text of\n30 sources", "--seed", "4")
    assert done.returncode != 0
    assert "data set: web text of 30 sources" in done.stderr
    assert "--exhibition" in done.stderr
    done = contest.submit("--data-set", "web text of\n30 sources", "--exhibition", "--seed", "4")
    assert done.returncode == 0, done.stderr
    for page in ("README.md", "report.html", "verdict.json"):
        assert "data set: web text of 30 sources" in (contest.bundle / page).read_text()


def test_bundle_of_the_same_name_gets_a_number(contest: Contest) -> None:
    contest.set(mode="crash")
    contest.submit(*FEW)
    contest.submit(*FEW)
    names = [path.name for path in contest.bundles()]
    assert len(names) == 2
    assert names[1] == names[0] + "-2"


def test_secrets_and_compiler_variables_do_not_reach_a_run(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    contest.set(mode="crash")
    contest.submit(*FEW)
    text = "".join(path.read_text() for path in contest.bundle.rglob("*") if path.is_file())
    assert "hf_secret" not in text
    started = events(contest, "started")[0]
    assert started["environment"]["NCCL_NVLS_ENABLE"] == "0"  # type: ignore[index]
    assert "TORCHINDUCTOR_MAX_AUTOTUNE" not in started["environment"]  # type: ignore[operator]
    assert "TORCHINDUCTOR_MAX_AUTOTUNE" in started["dropped"]  # type: ignore[operator]


def test_siblings_travel_with_the_script(contest: Contest) -> None:
    (contest.root / "candidates" / "helper_kernels.py").write_text("SCALE = 1\n")
    text = contest.candidate.read_text()
    contest.candidate.write_text(text.replace("import os\n", "import os\nimport helper_kernels\n"))
    done = contest.submit(*FEW)
    assert done.returncode in (0, 1), done.stderr
    assert (contest.bundle / "source/candidate/helper_kernels.py").is_file()


def test_files_of_a_bundle_stay_inside_it(contest: Contest) -> None:
    contest.submit(*FEW)
    assert not [path for path in contest.bundle.rglob("*") if path.is_symlink()]
    assert not list(Path(contest.root).glob("logs"))
