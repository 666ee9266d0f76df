"""`speedrun verify --rerun`, driven by a fake trainer: both arms from the bundle, nowhere else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.canonical import dumps, dumps_line, sha256_text
from harness.cli.main import main
from harness.schemas import all_schemas
from tests.runner.test_sandbox import SECRETS, needs_bwrap
from tests.support.contest import Contest
from tests.support.tamper import Copy
from tests.test_verdict import obeys

FEW = ("--runs", "2")


class Rerun:
    """A bundle from elsewhere, and a node on which it is run again."""

    def __init__(self, root: Path, accepted: Path) -> None:
        self.contest = Contest(root)
        # What lies in the work tree is none of a re-run's business.
        for script in (self.contest.candidate, self.contest.baseline):
            script.write_text("raise SystemExit('the work tree was run')\n")
        self.copy = Copy(accepted, root / "from elsewhere")

    @property
    def first(self) -> Path:
        return self.copy.root

    def command(self, *arguments: str) -> list[str]:
        data = str(self.contest.root)
        return self.contest.command(
            "verify", str(self.first), "--rerun", "--data", data, *arguments
        )

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=self.contest.root,
            env={**self.contest.environment(), **more}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    @property
    def second(self) -> Path:
        return self.contest.bundle

    def pooled(self) -> dict[str, Any]:
        return json.loads((self.second / "rerun.json").read_text(encoding="utf-8"))

    def plan(self) -> dict[str, Any]:
        return json.loads((self.second / "plan.json").read_text(encoding="utf-8"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.contest.ledger() if event["event"] == kind]

    def give(self, *, ms: float, loss: float = 3.27, mode: str = "", sleep_s: float = 0.0) -> None:
        """Another candidate in the bundle, in plan and ledger as if it had run."""
        from hashlib import sha256

        from harness.source import Source
        from tests.support.contest import write_trainer

        script = write_trainer(
            self.copy.path("source/candidate/fake.py"), ms=ms, loss=loss, mode=mode, sleep_s=sleep_s
        )
        text = script.read_text()
        source = Source("fake.py", {"fake.py": text})

        def change(plan: dict[str, Any]) -> None:
            plan["candidate"]["files"]["fake.py"] = sha256(text.encode()).hexdigest()
            plan["candidate"]["source_sha256"] = source.sha256()

        def each(events: list[dict[str, Any]]) -> None:
            for event in events:
                if event.get("arm") == "candidate":
                    event["source_sha256"] = source.sha256()

        self.copy.replan(change)
        self.copy.rechain(each)
        self.copy.reclaim()


@pytest.fixture
def rerun(accepted: Path, tmp_path: Path) -> Rerun:
    return Rerun(tmp_path, accepted)


def test_a_re_run_that_confirms(rerun: Rerun) -> None:
    before = {p: p.read_bytes() for p in rerun.first.rglob("*") if p.is_file()}
    done = rerun("--seed", "7", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["exit_code"] == 0
    assert document["rerun"] == rerun.pooled()
    obeys(rerun.pooled(), all_schemas()["rerun"])
    assert document["rerun"]["outcome"] == "confirmed"
    assert document["verdict"]["name"] == "fake"
    plan, first = rerun.plan(), json.loads(rerun.copy.text("plan.json"))
    for name in ("digest", "plan_sha256", "ledger_sha256"):
        assert len(plan["rerun"][name]) == 64
    assert f"digest   {plan['rerun']['digest']}" in done.stderr
    assert plan["rerun"]["bundle"] == rerun.first.name
    assert plan["rerun"]["plan_sha256"] == document["verdict"]["plan_sha256"]
    assert plan["rerun"]["ledger_sha256"] == document["verdict"]["ledger_sha256"]
    assert plan["seed"] == 7
    for arm in ("candidate", "baseline"):
        assert plan[arm]["source_sha256"] == first[arm]["source_sha256"]
        assert plan[arm]["origin"] == f"{rerun.first.name}/source/{arm}/fake.py"
    # A series of its own: warm-up pair, ledger, looks, verdict, report.
    assert len(rerun.events("started")) == 12
    assert [event["runs"] for event in rerun.events("looked")] == [5]
    assert rerun.contest.verdict()["decision"] == "accepted"
    assert rerun.contest.run("verify", str(rerun.second)).returncode == 0
    assert before == {p: p.read_bytes() for p in rerun.first.rglob("*") if p.is_file()}


def test_the_digest_it_names_is_the_one_that_was_posted(rerun: Rerun) -> None:
    """By an earlier version, whose verdict this one writes otherwise."""
    claimed = json.loads(rerun.copy.text("verdict.json")) | {"harness_version": "0.0.1"}
    text = dumps(claimed)
    rerun.copy.write("verdict.json", text)
    done = rerun(*FEW)
    posted = [claimed["plan_sha256"], claimed["ledger_sha256"], text]
    assert rerun.plan()["rerun"]["digest"] == sha256_text(dumps_line(posted)), done.stderr


def test_what_was_in_force_is_said_everywhere(rerun: Rerun) -> None:
    done = rerun(*FEW, "--sandbox", "none")
    says = "none: variables from an allow-list"
    assert says in done.stderr
    assert "asked for with --sandbox none" in done.stderr
    plan = rerun.plan()
    assert plan["rerun"]["protection"] == "none"
    assert plan["rerun"]["protection_says"].startswith(says)
    for name in ("README.md", "RERUN.md", "report.html"):
        assert says in (rerun.second / name).read_text(encoding="utf-8"), name
    assert rerun.pooled()["protection"].startswith(says)
    # --runs 2 is a fixed plan of two pairs.
    assert plan["design"]["kind"] == "fixed"
    assert plan["design"]["looks"] == [2]


def test_auto_says_why_there_is_no_sandbox(rerun: Rerun, tmp_path: Path) -> None:
    empty = tmp_path / "no programs here"
    empty.mkdir()
    done = rerun(*FEW, PATH=str(empty))
    assert "bwrap is not installed" in done.stderr
    assert rerun.plan()["rerun"]["protection"] == "none"
    assert "bwrap is not installed" in (rerun.second / "RERUN.md").read_text()
    refused = rerun(*FEW, "--sandbox", "bwrap", PATH=str(empty))
    assert refused.returncode == 2
    assert "--sandbox bwrap cannot be had" in refused.stderr
    assert "bwrap is not installed" in refused.stderr
    assert len(rerun.contest.bundles()) == 1


@needs_bwrap
def test_auto_takes_bwrap_and_the_script_sees_no_secret(rerun: Rerun) -> None:
    done = rerun(*FEW, **SECRETS)
    assert done.returncode in (0, 1), done.stderr
    assert rerun.plan()["rerun"]["protection"] == "bwrap"
    assert "protection bwrap: no network but loopback" in done.stderr
    for event in rerun.events("started"):
        assert not set(event["environment"]) & set(SECRETS)
        assert "/home" in event["environment"]["HOME"]
        assert event["environment"]["HOME"] != str(Path.home())
        assert event["command"][-1] == "fake.py"


def test_figures_that_nobody_else_gets_are_named(rerun: Rerun) -> None:
    """The bundle's logs were doctored to better losses, with hashes and verdict to match."""
    ids = [f"candidate-{pair:02d}" for pair in range(1, 6)]
    for i, run_id in enumerate(ids):
        lines = rerun.copy.text(f"runs/{run_id}.log").splitlines(keepends=True)
        words = lines[-1].split(" ")
        words[1] = f"val_loss:3.26{i}{40 + 7 * i}1"
        lines[-1] = " ".join(words)
        rerun.copy.write(f"runs/{run_id}.log", "".join(lines))
    rerun.give(ms=76, loss=3.281)
    rerun.copy.rehash(*ids)
    events = {e["runs"]: e for e in rerun.copy.events() if e["event"] == "looked"}
    assert set(events) == {5}
    look = rerun.copy.judge().looks[0]

    def relook(events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] == "looked":
                event["loss_p"] = look.loss_p

    rerun.copy.rechain(relook)
    rerun.copy.reclaim()
    assert rerun.copy.verify().exit_code == 0, rerun.copy.failing()
    done = rerun("--runs", "5")
    assert done.returncode == 1, done.stderr
    pooled = rerun.pooled()
    assert pooled["outcome"] == "contradicted"
    assert pooled["loss"]["alike"] is False
    assert pooled["loss"]["worse"] is True
    assert "CONTRADICTED" in done.stderr
    assert "the two series do not measure the same loss" in done.stderr


def test_a_candidate_that_is_not_faster_here_is_not_confirmed(rerun: Rerun) -> None:
    rerun.give(ms=81.0)  # as fast as the baseline, one series in a hundred would be accepted
    done = rerun("--runs", "5")
    assert done.returncode == 1, done.stderr
    assert rerun.pooled()["time"]["worse"] is True


def test_a_candidate_that_crashes_here(rerun: Rerun) -> None:
    rerun.give(ms=76, mode="crash")
    done = rerun(*FEW)
    assert done.returncode == 5, done.stderr
    assert rerun.pooled()["outcome"] == "not_confirmed"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name", ["source/candidate/fake.py", "runs/candidate-02.log", "track.toml"]
)
def test_a_bundle_that_was_changed_is_not_executed(rerun: Rerun, tmp_path: Path, name: str) -> None:
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')\n"
    rerun.copy.write(name, (trap if name.endswith(".py") else "# \n") + rerun.copy.text(name))
    done = rerun(*FEW, "--json")
    assert done.returncode == 3, done.stderr
    assert "nothing of the bundle was executed" in done.stderr
    assert json.loads(done.stdout)["rerun"] is None
    assert rerun.contest.bundles() == []
    assert not (tmp_path / "sprung").exists()


def test_a_file_slipped_in_beside_the_source_is_not_executed(rerun: Rerun) -> None:
    rerun.copy.write("source/candidate/random.py", "raise SystemExit('imported')\n")
    assert rerun(*FEW).returncode == 3
    assert rerun.contest.bundles() == []


def wait_for(condition: Any, what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def started(rerun: Rerun, count: int) -> bool:
    try:
        return bool(rerun.contest.bundles()) and len(rerun.events("started")) >= count
    except (json.JSONDecodeError, OSError):
        return False


def in_a_counted_candidate_run(rerun: Rerun) -> bool:
    if not started(rerun, 3) or not still_running(rerun):
        return False
    last = rerun.contest.ledger()[-1]
    return (last["event"], last.get("arm")) == ("started", "candidate")


def still_running(rerun: Rerun) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DATA_PATH") == str(rerun.contest.root):
                found.append(process.name())
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed(rerun: Rerun, ended_by: signal.Signals) -> None:
    rerun.give(ms=76, sleep_s=2.0)
    process = subprocess.Popen(
        rerun.command(*FEW, "--seed", "3"), cwd=rerun.contest.root, env=rerun.contest.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: in_a_counted_candidate_run(rerun), "a candidate's run (two seconds)")
    process.send_signal(ended_by)
    _, said = process.communicate(timeout=60)
    if ended_by == signal.SIGINT:
        assert process.returncode == 130, said
        assert "--rerun --resume" in said
        assert not still_running(rerun)
    assert not (rerun.second / "rerun.json").exists()
    protection = rerun.plan()["rerun"]["protection"]
    if protection == "bwrap":
        wait_for(lambda: not still_running(rerun), "the sandbox to die with its parent", 5)
    done = rerun("--resume", str(rerun.second))
    assert done.returncode in (0, 1), done.stderr
    assert len(rerun.events("lost")) == 1
    assert rerun.pooled()["loss"]["second"]["n"] == 2
    assert not still_running(rerun)
    # Of one that is over, only the pooling is made again.
    text = (rerun.second / "rerun.json").read_bytes()
    again = rerun("--resume", str(rerun.second))
    assert again.returncode == done.returncode
    assert (rerun.second / "rerun.json").read_bytes() == text
    assert len(rerun.events("started")) == 7


def test_an_exhibition_stays_one(rerun: Rerun, accepted: Path, tmp_path: Path) -> None:
    def change(plan: dict[str, Any]) -> None:
        plan["exhibition"] = ["declared as an exhibition by the submitter"]

    rerun.copy.replan(change)
    rerun.copy.reclaim()
    done = rerun(*FEW)
    assert done.returncode in (0, 1), done.stderr
    assert rerun.plan()["exhibition"] == ["declared as an exhibition by the submitter"]
    assert rerun.pooled()["exhibition"]
    assert "Exhibition" in (rerun.second / "RERUN.md").read_text()


def test_a_stranger_does_not_choose_the_folder(rerun: Rerun) -> None:
    """The rules of a bundle's own track could point DATA_PATH at anything."""
    command = rerun.command(*FEW)
    at = command.index("--data")
    done = subprocess.run(
        [*command[:at], *command[at + 2 :]], cwd=rerun.contest.root,
        env=rerun.contest.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "--data DIR" in done.stderr
    for folder in (".ssh", "../home", "/etc", "data/../.aws"):
        other = Copy(rerun.first, rerun.contest.root / folder.replace("/", "_"))
        other.edit("track.toml", 'folder = "data/fake"', f'folder = "{folder}"')

        def change(plan: dict[str, Any], text: str = other.text("track.toml")) -> None:
            from harness.tracks.track import track_sha256

            plan["track_sha256"] = track_sha256(text)

        other.replan(change)
        other.reclaim()
        done = rerun.contest.run(
            "verify", str(other.root), "--rerun", "--data", str(rerun.contest.root)
        )
        assert done.returncode == 3, done.stderr
        assert "a folder that no data lie in" in done.stderr
    assert rerun.contest.bundles() == []


def test_missing_data_is_said_before_anything_runs(rerun: Rerun) -> None:
    shutil.rmtree(rerun.contest.root / "data")
    done = rerun(*FEW)
    assert done.returncode == 4, done.stderr
    assert "the data of track fake are not here" in done.stderr
    assert rerun.contest.bundles() == []


def test_a_plan_of_a_thousand_processes_is_not_started_unasked(rerun: Rerun) -> None:
    def change(plan: dict[str, Any]) -> None:
        plan["launch"]["processes"] = 1000
        plan["exhibition"] = ["many"]

    rerun.copy.replan(change)
    rerun.copy.reclaim()
    done = rerun(*FEW)
    assert done.returncode == 2, done.stderr
    assert "1000 processes" in done.stderr


def test_resume_wants_a_re_run_of_this_bundle(rerun: Rerun, accepted: Path, tmp_path: Path) -> None:
    no_rerun = rerun("--resume", str(accepted))
    assert no_rerun.returncode == 2, no_rerun.stderr
    assert "is no re-run" in no_rerun.stderr
    assert rerun("--resume", str(tmp_path / "none")).returncode == 2
    assert rerun(*FEW).returncode in (0, 1)
    second = rerun.second
    rerun.give(ms=75)
    other = rerun("--resume", str(second))
    assert other.returncode == 2, other.stderr
    assert "a re-run of another bundle" in other.stderr


@needs_bwrap
def test_planned_under_bwrap_is_not_resumed_without(rerun: Rerun, tmp_path: Path) -> None:
    rerun.give(ms=76, sleep_s=2.0)
    process = subprocess.Popen(
        rerun.command(*FEW), cwd=rerun.contest.root, env=rerun.contest.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: started(rerun, 1), "the first run")
    os.kill(process.pid, signal.SIGINT)
    process.wait(60)
    empty = tmp_path / "nothing"
    empty.mkdir()
    done = rerun("--resume", str(rerun.second), PATH=str(empty))
    assert done.returncode == 4, done.stderr
    assert "planned under bwrap" in done.stderr
    assert len(rerun.events("started")) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--runs", "1", "--rerun"), "prove nothing"),
        (("--rerun", "--sandbox", "docker"), "no sandbox named 'docker'"),
        (("--runs", "5"), "no --rerun"),
        (("--sandbox", "none"), "no --rerun"),
    ],
)
def test_usage_errors(rerun: Rerun, arguments: tuple[str, ...], words: str) -> None:
    data = ("--data", str(rerun.contest.root)) if "--rerun" in arguments else ()
    done = rerun.contest.run("verify", str(rerun.first), *arguments, *data)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert rerun.contest.bundles() == []


def test_a_folder_of_logs_cannot_be_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(tmp_path), "--rerun"])
    assert caught.value.code == 2
    assert "a folder of logs cannot be run again" in capsys.readouterr().err
