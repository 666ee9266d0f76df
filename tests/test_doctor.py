"""Findings from facts: what a laptop, an 8 × H100 node and others are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from harness.attention import attention_backend
from harness.cli.doctor import doctor
from harness.doctor import Diagnosis, diagnose
from harness.environment import describe_machine
from harness.errors import UnfitError
from harness.facts import NO_ANSWER, DataState, Facts, data_state
from harness.gpu_processes import ForeignProcess
from harness.tracks.track import Track, load_track, parse_track, track_text
from tests.support.gpus import pretend, pretend_none

CPU_TRACK = """
schema_version = 1
baseline = "baseline/tiny.py"
candidate = "candidates/tiny.py"
[contest]
name = "tiny"
title = "a contest for two cores"
rules_version = 1
target_loss_nats = 3.0
alpha = 0.01
compared_on = "training time"
loss_rule = "t-test"
loss_sd_nats = 0.01
[data]
kind = "synthetic"
folder = "data/tiny"
train_glob = "tiny_train_*.bin"
validation_file = "tiny_val_000000.bin"
validation_tokens = 1000
[hardware]
kind = "cpu"
processes = 2
[compile]
[design]
looks = [5, 10]
loss_p = 0.003
timing_p = 0.003
timeout_s = 60
stall_s = 30
expected_run_s = 10
"""
FULL = DataState("data/fineweb10B", 9, 1024 + 2 * 10485760)


def tracks() -> tuple[Track, ...]:
    return parse_track(CPU_TRACK, "test"), load_track("small")


def answer(**packages: str) -> dict[str, Any]:
    cuda = None if "+cpu" in packages["torch"] else "12.8"
    return {
        **NO_ANSWER,
        "version": "3.12.9",
        "executable": "/venv/bin/python",
        "packages": packages,
        "torch": {"version": packages["torch"], "cuda": cuda},
        "python_h": True,
    }


def facts(python: dict[str, Any], **changes: Any) -> Facts:
    """Facts of this machine with the pretended GPUs; quiet, with a compiler and free disk."""
    environment = describe_machine(python, None).model_copy(
        update={
            "load_1m": 0.1,
            "cores_usable": 16.0,
            "governor": "performance",
            "disk_free_gib": 500.0,
            "compiler": "gcc",
            **changes,
        }
    )
    return Facts(
        environment=environment,
        tracks=tracks(),
        data={"small": FULL},
        missing_scripts={"tiny": (), "small": ()},
        in_repository=True,
    )


GPU_PYTHON = {**answer(torch="2.10.0", triton="3.6.0", xformers="0.0.34"), "xformers_fa3": "_C.so"}


def standing(diagnosis: Diagnosis) -> dict[str, str]:
    return {track.track: track.standing for track in diagnosis.tracks}


def ids(diagnosis: Diagnosis, status: str) -> set[str]:
    for finding in diagnosis.findings:
        assert finding.what, finding
        assert finding.why, finding
        assert finding.fix, finding
        assert finding.tracks, finding
    return {finding.id for finding in diagnosis.findings if finding.status == status}


def test_a_laptop_runs_the_small_contest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_none(monkeypatch)
    laptop = replace(
        facts(answer(torch="2.13.0+cpu"), governor="powersave", load_1m=3.0, cores_usable=8.0),
        data={"small": DataState("data/fineweb10B", 0, None)},
        on_battery=True,
    )
    told = diagnose(laptop)
    assert standing(told) == {"tiny": "official", "small": "no"}
    assert ids(told, "missing") == {"data", "gpu"}
    assert ids(told, "warn") == {"load", "governor", "battery"}
    assert told.attention.backend == "CPU"
    assert told.exit_code == 0
    assert diagnose(replace(laptop, tracks=(load_track("small"),))).exit_code == 4


def test_eight_h100s_are_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    told = diagnose(facts(GPU_PYTHON))
    assert standing(told) == {"tiny": "official", "small": "official"}
    assert told.findings == ()
    assert told.attention.backend == "FlashAttention-3 (xformers)"
    assert told.tracks[1].command == "speedrun submit --track small"


def test_four_h200s_run_an_exhibition(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, count=4, name="NVIDIA H200", memory_mib=143771)
    told = diagnose(facts(GPU_PYTHON))
    assert standing(told)["small"] == "exhibition"
    assert told.tracks[1].command == "speedrun submit --track small --exhibition"
    assert "8 GPUs" in told.tracks[1].why
    assert told.machine["GPUs"].startswith("4 × NVIDIA H200")


def test_an_old_driver_is_refused_with_the_version_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, driver="470.82.01", cuda=11040)
    told = diagnose(facts(GPU_PYTHON))
    assert standing(told)["small"] == "no"
    (finding,) = told.findings
    assert finding.id == "driver"
    assert "CUDA 11.4" in finding.why
    assert "525.60.13" in finding.fix


def test_a_shared_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    other = ForeignProcess(gpu=3, pid=77, name="python", memory_mib=50_215)
    told = diagnose(replace(facts(GPU_PYTHON), foreign=(other,)))
    assert standing(told) == {"tiny": "official", "small": "no"}
    assert "GPU 3: python (pid 77, 50215 MiB)" in told.findings[0].why


def test_short_validation_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    told = diagnose(replace(facts(GPU_PYTHON), data={"small": DataState("data", 9, 1024)}))
    assert standing(told)["small"] == "no"
    assert "10485760 tokens need 20972544" in told.findings[0].why


def test_cpu_torch_on_a_gpu_node(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    told = diagnose(facts(answer(torch="2.13.0+cpu")))
    assert ids(told, "missing") == {"cuda"}
    assert told.attention.backend == "CPU"


def test_nothing_to_compile_with_and_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, power_limit_mw=500000, memory_mib=24576)
    python = {**GPU_PYTHON, "python_h": False}
    told = diagnose(facts(python, compiler=None, disk_free_gib=4.0))
    assert ids(told, "missing") == {"compiler", "headers"}
    assert ids(told, "warn") == {"disk", "power", "memory"}
    assert diagnose(facts(GPU_PYTHON, disk_free_gib=0.5)).exit_code == 4


def test_hidden_gpus_and_driver_trouble_have_their_own_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = diagnose(facts(GPU_PYTHON))
    assert told.findings[0].fix == "unset CUDA_VISIBLE_DEVICES"
    pretend(monkeypatch, init_error="Driver/library version mismatch")
    assert "reboot" in diagnose(facts(GPU_PYTHON)).findings[0].fix


def test_an_interpreter_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_none(monkeypatch)
    error = UnfitError("it crashed", where="/bin/x", why="exit code 1", fix="another one")
    told = diagnose(replace(facts({**NO_ANSWER}), interpreter_error=error))
    assert standing(told) == {"tiny": "no", "small": "no"}
    assert told.exit_code == 4
    assert told.findings[0].tracks == ("tiny", "small")


def test_missing_torch_names_the_extra_of_the_track(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    told = diagnose(facts({**NO_ANSWER, "version": "3.12.9", "python_h": True}))
    fixes = {finding.tracks: finding.fix for finding in told.findings if finding.id == "torch"}
    assert '".[cpu]"' in fixes[("tiny",)]
    assert '".[gpu]"' in fixes[("small",)]


def test_outside_a_clone_and_without_a_tracks_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    fine = facts(GPU_PYTHON)
    assert standing(diagnose(replace(fine, in_repository=False)))["small"] == "no"
    told = diagnose(replace(fine, missing_scripts={"small": ("baseline/small.py",), "tiny": ()}))
    assert standing(told)["small"] == "official"
    assert "--baseline BASELINE" in told.tracks[1].command


@pytest.mark.parametrize(
    ("found", "torch", "cuda", "backend", "word"),
    [
        ({"flash_attn_interface": "a.py", "xformers_fa3": "b"}, "2.10.0", "12.8",
         "FlashAttention-3 (flash_attn_interface)", "installed"),
        ({"fa3_path": "/x/_C.so", "kernels": True}, "2.11.0", "12.8",
         "FlashAttention-3 (SPEEDRUN_FA3_PATH)", "SPEEDRUN_FA3_PATH"),
        ({"xformers_fa3": "b", "kernels": True}, "2.11.0", "13.0",
         "FlexAttention", "libcudart.so.12"),
        ({"xformers_fa3": "b", "cudart12": "c"}, "2.11.0", "13.0",
         "FlashAttention-3 (xformers)", "flash_attn_3"),
        ({"xformers_fa3": "b"}, "2.9.1", "12.8", "FlexAttention", "2.10 or newer"),
        ({"kernels": True}, "2.10.0", "12.8", "FlashAttention-3 (Hugging Face hub)", "fetched"),
        ({"kernels": True, "kernels_cached": True}, "2.10.0", "12.8",
         "FlashAttention-3 (Hugging Face hub)", "local cache"),
        ({}, "2.10.0", "12.8", "FlexAttention", "neither"),
    ],
)  # fmt: skip
def test_attention_in_the_order_of_the_scripts(
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, Any],
    torch: str,
    cuda: str,
    backend: str,
    word: str,
) -> None:
    pretend(monkeypatch)
    python = {**answer(torch=torch), "torch": {"version": torch, "cuda": cuda}, **found}
    told = attention_backend(describe_machine(python, None))
    assert told.backend == backend
    assert word in told.why


@pytest.mark.parametrize("capability", [(8, 0), (10, 0)])
def test_only_hopper_gets_flash_attention_3(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    pretend(monkeypatch, name="another GPU", capability=capability)
    told = attention_backend(describe_machine(GPU_PYTHON, None))
    assert told.backend == "FlexAttention"
    assert f"{capability[0]}.0" in told.why


def test_data_are_counted_on_disk(tmp_path: Path) -> None:
    track = load_track("small")
    folder = tmp_path / track.data.folder
    assert data_state(track, tmp_path) == DataState(str(folder), 0, None)
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"fineweb_train_{number:06d}.bin").touch()
    (folder / track.data.validation_file).write_bytes(b"12345")
    assert data_state(track, tmp_path) == DataState(str(folder), 3, 5)


def _run(*arguments: str) -> tuple[int, str, str]:
    app = Typer()
    app.command()(doctor)
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


def test_command_with_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_none(monkeypatch)
    code, out, _ = _run("--json", "--track", "small", "--data", str(tmp_path))
    document = json.loads(out)
    assert code == document["exit_code"] == 4
    assert document["tracks"][0]["standing"] == "no"
    assert str(tmp_path) in json.dumps(document["findings"])


def test_command_for_people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_none(monkeypatch)
    track = tmp_path / "tiny.toml"
    track.write_text(CPU_TRACK)
    code, out, err = _run("--track", str(track))
    assert out == ""
    assert "official" in err or "no torch" in err
    assert code in (0, 4)
    code, _, err = _run("--track", str(track), "--python", str(tmp_path / "none"))
    assert code == 4
    assert "no such file" in err
    assert "fix:" in err


def test_every_track_of_the_package_can_be_diagnosed(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert "small" in track_text("small")
    code, out, _ = _run("--json")
    assert code in (0, 4)
    assert {"small", "medium", "optimization"} <= {t["track"] for t in json.loads(out)["tracks"]}
