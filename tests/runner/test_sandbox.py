"""What a stranger's script can reach: next to nothing with bwrap, no variable of ours without."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.runner.child_environment import child_environment
from harness.runner.launch import LaunchOutcome, LaunchSpec, launch
from harness.runner.sandbox import Protection, try_sandbox

HOME = Path.home()


def tried(tmp_path: Path, **more: Any) -> tuple[Protection, str]:
    scratch = tmp_path / "trial"
    scratch.mkdir(exist_ok=True)
    asked: dict[str, Any] = {"data": (), "hidden": (HOME,), "gpu": False, "packages": (), **more}
    return try_sandbox(sys.executable, scratch=scratch, **asked)


def works() -> str:
    """Why there is no bwrap here; empty where there is."""
    if shutil.which("bwrap") is None:
        return "bwrap is not installed"
    done = subprocess.run(
        ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else f"bwrap does not work here: {done.stderr.strip()}"


PROBLEM = works()
needs_bwrap = pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "bwrap works")


class Cage:
    """Runs Python text under a protection, as a series does."""

    def __init__(self, root: Path, protection: Protection) -> None:
        self.root, self.protection = root, protection
        self.scratch = root / "scratch"
        self.folder = self.scratch / "candidate"
        self.folder.mkdir(parents=True)

    def spec(self, text: str, **parent: str) -> LaunchSpec:
        (self.folder / "script.py").write_text(textwrap.dedent(text), encoding="utf-8")
        environment, _ = child_environment(
            {"PATH": os.environ["PATH"], **parent},
            data_root=self.root,
            caches=None,
            extra=self.protection.surroundings(self.scratch),
        )
        command = self.protection.wrap(
            [sys.executable, "script.py"], scratch=self.scratch, folder=self.folder
        )
        return LaunchSpec(
            command=command, folder=self.folder, environment=environment,
            marker=f"sandbox-test-{self.root.name}-{os.getpid()}", log=self.root / "log",
            times=self.root / "times", stderr=self.root / "err", timeout_s=30, stall_s=30,
        )  # fmt: skip

    def run(self, text: str, **parent: str) -> LaunchOutcome:
        return launch(self.spec(text, **parent))

    def says(self, text: str, **parent: str) -> Any:
        outcome = self.run(text, **parent)
        assert outcome.exit_code == 0, (self.root / "err").read_text()
        return json.loads((self.root / "log").read_text())


@pytest.fixture
def cage(tmp_path: Path) -> Cage:
    protection, problem = tried(tmp_path, hidden=(HOME, tmp_path / "results"))
    assert problem == ""
    return Cage(tmp_path, protection)


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


SECRETS = {
    "HF_TOKEN": "hf_x", "GITHUB_TOKEN": "ghp_x", "SSH_AUTH_SOCK": "/run/agent", "AWS_PROFILE": "p",
    "AWS_SECRET_ACCESS_KEY": "x", "NCCL_API_KEY": "x", "HTTPS_PROXY": "http://user:pw@proxy",
    "WANDB_API_KEY": "x", "DBUS_SESSION_BUS_ADDRESS": "unix:x", "KUBECONFIG": "/k",
}  # fmt: skip


@needs_bwrap
def test_the_network_is_gone_and_loopback_is_there(cage: Cage, listener: int) -> None:
    said = cage.says(f"""
        import json, socket
        def reaches(*address):
            try:
                socket.create_connection(address, 2).close()
                return True
            except OSError:
                return False
        server = socket.create_server(("localhost", 0))
        print(json.dumps({{
            "own": reaches("localhost", server.getsockname()[1]),
            "by_name": reaches(socket.gethostname(), server.getsockname()[1]),
            "outside": reaches("127.0.0.1", {listener}),
            "net": [name for _, name in socket.if_nameindex()],
        }}))
    """)
    assert said["own"]
    assert said["by_name"]
    assert not said["outside"]
    assert "lo" in said["net"]
    assert not any(name.startswith(("eth", "en", "wl")) for name in said["net"])


@needs_bwrap
def test_nothing_of_the_home_and_no_token_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home with a key in it; results beside the run's own folder."""
    home = tmp_path / "home of somebody"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_ed25519").write_text("a private key")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "verdict.json").write_text("{}")
    protection, problem = tried(tmp_path, hidden=(home, tmp_path / "results"))
    assert problem == ""
    cage = Cage(tmp_path / "run", protection)
    said = cage.says(
        f"""
        import json, os
        seen = {{}}
        for path in ({str(home / ".ssh" / "id_ed25519")!r}, {str(tmp_path / "results")!r},
                     {str(HOME / ".ssh")!r}, "/etc/shadow", "/etc/ssh", "/var/lib", "/root/.ssh"):
            seen[path] = os.path.exists(path)
        print(json.dumps({{
            "seen": seen, "environment": dict(os.environ), "home": os.listdir(os.environ["HOME"]),
            "processes": [p for p in os.listdir("/proc") if p.isdigit()],
            "user": os.path.expanduser("~"),
        }}))
        """,
        HOME=str(home),
        **SECRETS,
    )
    assert not any(said["seen"].values()), said["seen"]
    assert said["home"] == []
    assert said["user"] == str(cage.scratch / "home")
    assert not set(said["environment"]) & set(SECRETS)
    assert not any("hf_x" in value or str(home) in value for value in said["environment"].values())
    assert len(said["processes"]) <= 4, "its own, not the machine's"


@needs_bwrap
def test_only_the_throw_away_folder_can_be_written(tmp_path: Path) -> None:
    shard = tmp_path / "data" / "val.bin"
    shard.parent.mkdir()
    shard.write_bytes(b"tokens")
    (tmp_path / "data" / "diary.txt").write_text("not a shard")
    protection, problem = tried(tmp_path, data=[shard])
    assert problem == ""
    cage = Cage(tmp_path / "run", protection)
    said = cage.says(f"""
        import json, os, sys
        def writes(path):
            try:
                open(path, "w").close()
                return True
            except OSError:
                return False
        print(json.dumps({{
            "own": writes("mine") and writes(os.environ["TMPDIR"] + "/t"),
            "shard": writes({str(shard)!r}),
            "interpreter": writes(os.path.join(sys.prefix, "evil.pth")),
            "usr": writes("/usr/evil"), "etc": writes("/etc/passwd"),
            "listed": os.listdir({str(shard.parent)!r}),
            "read": open({str(shard)!r}).read(),
        }}))
        open("/tmp/left-behind", "w").close()
        open("/dev/shm/left-behind", "w").close()
    """)
    assert said["own"]
    assert not any(said[place] for place in ("shard", "interpreter", "usr", "etc")), said
    assert said["listed"] == ["val.bin"]
    assert said["read"] == "tokens"
    assert shard.read_bytes() == b"tokens"
    assert not Path("/tmp/left-behind").exists()
    assert not Path("/dev/shm/left-behind").exists()


@needs_bwrap
def test_a_shard_that_is_a_link_is_read(tmp_path: Path) -> None:
    """Hubs keep blobs in one folder and link to them from another."""
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_bytes(b"tokens")
    (tmp_path / "data").mkdir()
    shard = tmp_path / "data" / "val.bin"
    shard.symlink_to(blob)
    protection, problem = tried(tmp_path, data=[shard])
    assert problem == ""
    said = Cage(tmp_path / "run", protection).says(f"""
        import json
        print(json.dumps(open({str(shard)!r}).read()))
    """)
    assert said == "tokens"


@needs_bwrap
def test_folders_inside_what_is_bound_are_covered(tmp_path: Path) -> None:
    """A home or results that lie in the interpreter's own folder."""
    tree = tmp_path / "env"
    (tree / "repo" / "results").mkdir(parents=True)
    (tree / "repo" / "results" / "verdict.json").write_text("{}")
    (tree / "lib.txt").write_text("a library")
    protection, problem = tried(tmp_path, hidden=(HOME, tree / "repo" / "results"))
    assert problem == ""
    protection = Protection(
        bwrap=protection.bwrap,
        readable=(*protection.readable, tree),
        hidden=protection.hidden,
    )
    said = Cage(tmp_path / "run", protection).says(f"""
        import json, os
        print(json.dumps([os.listdir({str(tree / "repo" / "results")!r}),
                          os.path.exists({str(tree / "lib.txt")!r})]))
    """)
    assert said == [[], True]


@needs_bwrap
def test_exit_codes_come_through_and_a_stop_ends_everything(cage: Cage) -> None:
    assert cage.run("raise SystemExit(7)").exit_code == 7
    stop = threading.Event()
    spec = cage.spec("""
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env={})
        print("ready", flush=True)
        time.sleep(600)
    """)
    outcome = launch(spec, on_line=lambda line: stop.set(), stop=stop)
    assert outcome.reason == "stopped"
    assert outcome.wall_s < 20
    assert not left(spec.marker)


def left(marker: str) -> list[psutil.Process]:
    """What still carries the marker, or sleeps our 600 seconds in a sandbox."""
    found = []
    for process in psutil.process_iter():
        try:
            told = process.environ().get("SPEEDRUN_RUN") == marker
            if told or "time.sleep(600)" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@needs_bwrap
def test_a_harness_that_is_killed_leaves_nothing_running(cage: Cage, tmp_path: Path) -> None:
    spec = cage.spec("""
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True, env={})
        open("started", "w").close()
        time.sleep(600)
    """)
    program = (
        "import subprocess, json, sys\n"
        "command, environment = json.loads(sys.argv[1])\n"
        "subprocess.Popen(command, env=environment, start_new_session=True).wait()\n"
    )
    environment = {**spec.environment, "SPEEDRUN_RUN": spec.marker}
    harness = subprocess.Popen(
        [sys.executable, "-c", program, json.dumps([spec.command, environment])]
    )
    deadline = time.monotonic() + 20
    while not (cage.folder / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(harness.pid, signal.SIGKILL)
    harness.wait()
    while left(spec.marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left(spec.marker)


def test_without_bwrap_the_reason_is_said_and_variables_are_still_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    protection, problem = tried(tmp_path)
    assert "not installed" in problem
    assert protection.bwrap is None
    cage = Cage(tmp_path / "run", protection)
    said = cage.says(
        "import json, os; print(json.dumps([dict(os.environ), os.listdir(os.environ['HOME'])]))",
        **SECRETS,
    )
    assert not set(said[0]) & set(SECRETS)
    assert said[0]["HOME"] == str(cage.scratch / "home")
    assert said[1] == []
    assert cage.spec("").command == (sys.executable, "script.py")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1", "uid map"),
        ("exit 0", "does not work here"),
        ("sleep 600", "timed out"),
    ],
)
def test_a_bwrap_that_does_not_work_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    fake = tmp_path / "bin" / "bwrap"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{program.replace('sleep', 'exec sleep')}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("harness.runner.sandbox.TRIAL_S", 3.0)
    protection, problem = tried(tmp_path)
    assert protection.bwrap is None
    assert words in problem


@needs_bwrap
def test_what_a_run_needs_and_does_not_find_speaks_against_bwrap(tmp_path: Path) -> None:
    assert "no_such_package" in tried(tmp_path, packages=("no_such_package",))[1]
    assert "libcuda" in tried(tmp_path, gpu=True)[1] or Path("/dev/nvidiactl").exists()
    assert "gone.bin" in tried(tmp_path, data=[tmp_path / "gone.bin"])[1]
