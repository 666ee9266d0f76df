"""The fingerprint: what is recorded, what it may not reveal, and what forbids mixing times."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.environment import (
    Environment,
    describe_machine,
    environment_lines,
    read_environment,
    same_node,
    take_environment,
)
from harness.errors import EvidenceError, UnfitError
from harness.nvml import visible_indices
from harness.runner.probe import probe_interpreter
from tests.support.gpus import pretend, pretend_none

ANSWER: dict[str, Any] = {
    "version": "3.12.9",
    "executable": str(Path.home() / "venv/bin/python"),
    "packages": {"torch": "2.10.0", "triton": "3.6.0", "numpy": "2.3.0", "rich": "14.0"},
    "torch": {"version": "2.10.0+cu128", "cuda": "12.8", "git_version": "abc"},
    "flash_attn_interface": None,
    "fa3_path": None,
    "xformers_fa3": None,
    "cudart12": None,
    "kernels": False,
    "kernels_cached": False,
    "python_h": True,
}


def test_eight_h100s_as_the_driver_states_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    environment = describe_machine(ANSWER, None)
    assert [gpu.index for gpu in environment.gpus] == list(range(8))
    gpu = environment.gpus[3]
    assert (gpu.name, gpu.driver, gpu.compute_capability) == (
        "NVIDIA H100 80GB HBM3",
        "580.82.07",
        "9.0",
    )
    assert (gpu.memory_mib, gpu.power_limit_w, gpu.pcie, gpu.nvlinks) == (
        81559,
        700.0,
        "gen5 x16",
        18,
    )
    assert (gpu.ecc, gpu.persistence, gpu.mig) == (True, True, None)
    assert environment.cuda_driver == "13.0"
    assert environment.interpreter.torch_cuda == "12.8"
    lines = environment_lines(environment)
    assert lines["GPUs"] == "8 × NVIDIA H100 80GB HBM3 (700 W, 79.6 GiB)"
    assert lines["torch"] == "2.10.0 (CUDA 12.8)"
    assert lines["Driver"] == "580.82.07 (CUDA 13.0)"


def test_names_no_machine_and_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    text = describe_machine(ANSWER, None).text()
    assert "GPU-3a6f0e64" not in text
    assert str(Path.home()) + "/" not in text
    assert "~/venv/bin/python" in text


def test_round_trip_and_malformed_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    environment = describe_machine(ANSWER, None)
    assert read_environment(environment.text(), "environment.json") == environment
    with pytest.raises(EvidenceError) as caught:
        read_environment(environment.text().replace('"memory_gib"', '"memory"'), "e.json")
    assert "e.json" in caught.value.where


def test_no_driver_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_none(monkeypatch)
    environment = describe_machine({**ANSWER, "torch": {}, "packages": {}}, None)
    assert environment.gpus == ()
    assert environment.interpreter.torch is None
    assert len(environment.node_sha256) == 64
    assert environment_lines(environment)["GPUs"] == "none"


def test_unsupported_calls_become_none(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("EccMode", "VbiosVersion", "EnforcedPowerLimit", "NvLinkState", "MemoryInfo")
    pretend(monkeypatch, unsupported=[f"nvmlDeviceGet{name}" for name in names])
    gpu = describe_machine(ANSWER, None).gpus[0]
    assert (gpu.ecc, gpu.vbios, gpu.power_limit_w, gpu.nvlinks) == (None, "", None, None)
    assert gpu.memory_mib is None


def test_a_gpu_off_the_bus_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, unsupported=["nvmlDeviceGetHandleByIndex"])
    environment = describe_machine(ANSWER, None)
    assert environment.gpus == ()
    assert environment.gpus_on_node == 8
    assert "does not answer" in environment.gpu_problem


@pytest.mark.parametrize(
    ("wished", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        ("0,9,1", [0]),
        ("0,0,1", [0]),
        ("GPU-c", [2]),
        ("MIG-x", [0, 1, 2, 3]),
    ],
)
def test_visible_devices_as_cuda_reads_them(wished: str | None, expected: list[int]) -> None:
    uuids = ["GPU-a1", "GPU-b1", "GPU-c1", "GPU-d1"]
    environ = {} if wished is None else {"CUDA_VISIBLE_DEVICES": wished}
    assert visible_indices(uuids, environ) == expected


def test_same_node(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    one = describe_machine(ANSWER, None)
    assert same_node(one, one.model_copy(update={"utc": "later", "load_1m": 9.0})) == ()
    assert same_node(one, _with_packages(one, rich="13.0")) == ()
    torch = same_node(one, _with_packages(one, torch="2.11.0"))
    assert torch == ("torch: 2.10.0 and 2.11.0",)
    pretend(monkeypatch, driver="570.1", power_limit_mw=500000)
    other = same_node(one, describe_machine(ANSWER, None))
    assert other == (
        "GPU driver: 580.82.07 and 570.1",
        "GPU power limit: 700.0 and 500.0",
    )
    pretend(monkeypatch, count=4)
    assert any(line.startswith("node: ") for line in same_node(one, describe_machine(ANSWER, None)))


def _with_packages(environment: Environment, **versions: str) -> Environment:
    python = environment.interpreter
    packages = {**python.packages, **versions}
    return environment.model_copy(
        update={"interpreter": python.model_copy(update={"packages": packages})}
    )


def test_fa3_binary_is_hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_none(monkeypatch)
    binary = tmp_path / "_C.so"
    binary.write_bytes(b"elf")
    python = describe_machine({**ANSWER, "xformers_fa3": str(binary)}, None).interpreter
    assert python.fa3 == "xformers"
    assert python.fa3_sha256 == hashlib.sha256(b"elf").hexdigest()


def test_commit_and_dirty_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = pytest.importorskip("git", reason="needs a git program")
    pretend_none(monkeypatch)
    assert describe_machine(ANSWER, tmp_path).repository is None
    with git.Repo.init(tmp_path) as repository:
        assert describe_machine(ANSWER, tmp_path).repository is None  # no commit yet
        (tmp_path / "a.py").write_text("1\n")
        repository.index.add(["a.py"])
        author = git.Actor("a", "a@example.org")
        commit = repository.index.commit("one", author=author, committer=author).hexsha
    state = describe_machine(ANSWER, tmp_path).repository
    assert state is not None
    assert (state.commit, state.dirty) == (commit, False)
    (tmp_path / "a.py").write_text("2\n")
    state = describe_machine(ANSWER, tmp_path).repository
    assert state is not None
    assert state.dirty is True


def test_the_probe_finds_cuda_12s_runtime_beside_the_binary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that packs FlashAttention-3 for a machine without a network holds both; doctor
    said FlexAttention where the scripts ran FlashAttention-3."""
    monkeypatch.setenv("SPEEDRUN_FA3_PATH", str(tmp_path))
    (tmp_path / "_C.so").touch()
    assert probe_interpreter(sys.executable, require=())["cudart12"] is None
    (tmp_path / "libcudart.so.12.8.90").touch()
    answer = probe_interpreter(sys.executable, require=())
    assert answer["fa3_path"] == str(tmp_path / "_C.so")
    assert answer["cudart12"] == str(tmp_path / "libcudart.so.12.8.90")


def test_probe_of_this_interpreter_imports_nothing_it_asks_about() -> None:
    started = time.monotonic()
    answer = probe_interpreter(sys.executable, require=("pytest",))
    assert tuple(answer["version_info"]) == sys.version_info[:3]
    assert answer["packages"]["pytest"] == pytest.__version__
    assert answer["packages"]["pydantic-core"]  # normalised name
    assert time.monotonic() - started < 5


def test_take_environment_asks_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_none(monkeypatch)
    if "torch" not in probe_interpreter(sys.executable, require=())["packages"]:
        with pytest.raises(UnfitError, match="no torch"):
            take_environment(sys.executable, None)
        return
    python = take_environment(sys.executable, None).interpreter
    assert python.torch is not None
    assert python.version == ".".join(map(str, sys.version_info[:3]))


def _script(path: Path, text: str) -> str:
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_probe_says_what_is_wrong(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    cases = {
        str(tmp_path / "none"): "no such file",
        str(plain): "not executable",
        _script(tmp_path / "crash", "raise SystemExit('broken installation')"): "broken installa",
        _script(tmp_path / "hang", "import time; time.sleep(60)"): "no answer within 1 s",
        _script(tmp_path / "flood", "while True: print('x' * 9999)"): "no answer",
    }
    for program, expected in cases.items():
        with pytest.raises(UnfitError) as caught:
            probe_interpreter(program, timeout_s=1.0)
        assert expected in caught.value.why, program
        assert caught.value.exit_code == 4
        assert caught.value.fix
    with pytest.raises(UnfitError, match="no nonesuch"):
        probe_interpreter(sys.executable, require=("nonesuch",))


def test_probe_ends_what_a_hanging_interpreter_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    hang = _script(
        tmp_path / "hang",
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)",
    )
    with pytest.raises(UnfitError):
        probe_interpreter(hang, timeout_s=1.0)
    pid = int(note.read_text())
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the interpreter's child still lives")


def test_probe_passes_no_secret_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    show = _script(tmp_path / "show", "import os; print(os.environ.get('MY_TOKEN', 'unset'))")
    with pytest.raises(UnfitError) as caught:
        probe_interpreter(show, timeout_s=5)
    assert "unset" in caught.value.why
