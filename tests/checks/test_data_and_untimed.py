"""Judging files, parameters, children and clocks of an audit report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.audit_report import (
    AuditReport,
    FileUse,
    ParameterState,
    PhaseCounts,
    ProcessFacts,
)
from harness.auditing import audit_checks
from harness.bundle import Run
from harness.checks.check import Check
from harness.checks.data import KNOWN_BINARIES
from harness.logs import parse_log
from harness.verdict import judge
from tests.support.audited import HONEST, judged, mini_bundle, mini_track
from tests.support.series import make_run


def of(check: str, honest: AuditReport, data: Path, **fields: Any) -> Check:
    return judged(HONEST, honest.model_copy(update=fields), data)[check]


def used(path: str, zone: str = "data", **fields: Any) -> FileUse:
    known: dict[str, Any] = {
        "written": False, "size_bytes": 400_000, "opens": PhaseCounts(clock=1), "order": 9,
    }  # fmt: skip
    return FileUse(path=path, zone=zone, **{**known, **fields})  # type: ignore[arg-type]


FILES: dict[str, tuple[FileUse, str, str]] = {
    "a shard the plan does not know": (
        used("mini_train_000009.bin"), "fail", "whose hash the plan does not name"),
    "no shard at all": (used("notes.bin"), "warn", "no shard of the track"),
    "a shard written to": (used("mini_val.bin", written=True), "fail", "for writing"),
    "seen from outside only": (
        used("mini_val.bin", opens=PhaseCounts(), seen_outside=PhaseCounts(clock=9)),
        "warn", "by something that the shim does not see"),
    "validation while training": (
        used("mini_val.bin", trained_after=PhaseCounts(clock=1)), "fail", "with training steps"),
    "validation before the warm-up": (
        used("mini_val.bin", trained_after=PhaseCounts(warmup=1)), "warn", "before the clock"),
    "another result": (used("x/verdict.json", "contest"), "fail", "not the candidate's to read"),
    "written at home": (used(".state", "home", written=True), "warn", "outside its own folder"),
    "left by an earlier run": (
        used("cache.bin", "temporary", existed=True, size_bytes=1 << 21), "warn", "there before"),
    "shared memory from before": (
        used("table", "shm", existed=True), "warn", "shared memory that was there"),
    "a small file at home": (used(".netrc", "home", existed=True), "pass", ""),
    "its own log": (used("logs/1.txt", "source", written=True), "pass", ""),
    "a compile cache": (used("x.so", "cache", existed=True, size_bytes=1 << 22), "pass", ""),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_files(what: str, honest_audit: AuditReport, mini_data: Path) -> None:
    file, status, words = FILES[what]
    check = of("data", honest_audit, mini_data, files=(*honest_audit.files, file))
    assert check.status == status
    assert words in " ".join(check.details)


def test_connections_and_binaries(honest_audit: AuditReport, mini_data: Path) -> None:
    local = ("('127.0.0.1', 29500)", "('localhost', 80)", "('::1', 1, 0, 0)", "'/tmp/socket'")
    assert of("data", honest_audit, mini_data, sockets=local).status == "pass"
    check = of("data", honest_audit, mini_data, sockets=("('1.2.3.4', 443)",))
    assert check.details == ("connected to ('1.2.3.4', 443)",)
    binaries = {"home: fast.so": "b" * 64}
    check = of("data", honest_audit, mini_data, binaries=binaries)
    assert check.details == (f"loaded home: fast.so (sha256 {'b' * 16}…)",)
    known = {f"other: {i}.so": digest for i, digest in enumerate(KNOWN_BINARIES)}
    assert len(known) == 2
    assert of("data", honest_audit, mini_data, binaries=known).status == "pass"
    renamed = {"other: /srv/fa3/_C.so": "c" * 64, **known}  # the name makes no binary known
    assert of("data", honest_audit, mini_data, binaries=renamed).status == "warn"


def test_shards_must_be_those_the_track_states(mini_data: Path) -> None:
    from tests.support.audited import mini_track

    stated = "\n[data.sha256]\n" + "\n".join(
        f'"{name}" = "{"0" * 64}"' for name in ("mini_val.bin", "mini_train_000001.bin")
    )
    track = mini_track(validation_tokens=f"8192\n{stated}")
    check = judged(HONEST, None, mini_data, track=track)["data"]
    assert check.status == "fail"
    assert any("the track states 0000000000000000" in line for line in check.details)
    assert any("not among the hashes the track states" in line for line in check.details)


def test_a_plan_without_the_validation_shard(mini_data: Path) -> None:
    bundle = mini_bundle(HONEST, None, mini_data)
    launch = bundle.plan.launch.model_copy(update={"data_sha256": {}})
    plan = bundle.plan.model_copy(update={"launch": launch})
    checks = judge(mini_bundle(HONEST, None, mini_data, plan=plan)).checks
    check = next(c for c in checks if c.id == "data")
    assert check.status == "fail"
    exhibition = plan.model_copy(update={"exhibition": ("other data",)})
    checks = judge(mini_bundle(HONEST, None, mini_data, plan=exhibition)).checks
    assert next(c for c in checks if c.id == "data").status == "warn"


RANK: dict[str, tuple[dict[str, Any], str, str]] = {
    "kept": (
        {"parameters": ParameterState(tensors=4, same=3, kept=1, fresh=0)},
        "fail", "1 of 4 parameters keep"),
    "fresh": (
        {"parameters": ParameterState(tensors=4, same=0, kept=0, fresh=4)}, "warn", "drawn anew"),
    "late": ({"late_backward": 7}, "fail", "7 backward passes while a validation was made"),
    "clock": ({"replaced_clocks": ("time",)}, "fail", "time replaced"),
    "unseen": ({"backward": PhaseCounts()}, "warn", "how it trains is not known"),
}  # fmt: skip


@pytest.mark.parametrize("what", RANK)
def test_ranks(what: str, honest_audit: AuditReport, mini_data: Path) -> None:
    change, status, words = RANK[what]
    rank = honest_audit.ranks[0].model_copy(update=change)
    check = of("untimed", honest_audit, mini_data, ranks=(rank,))
    assert check.status == status
    assert words in " ".join(check.details)


@pytest.mark.parametrize(
    ("read", "size", "status"),
    [(200_000_000, 200_000_000, "fail"), (30_000_000, 200_000_000, "pass"),
     (60_000_000, 200_000_000, "fail"), (200_000, 400_000, "pass"), (400_000, 400_000, "fail")],
)  # fmt: skip
def test_how_much_of_a_shard_is_a_read(
    read: int, size: int, status: str, honest_audit: AuditReport, mini_data: Path
) -> None:
    file = used("mini_train_000001.bin", size_bytes=size, read_reset_bytes=read)
    assert of("untimed", honest_audit, mini_data, files=(file,)).status == status


@pytest.mark.parametrize(
    ("validation", "after", "status"),
    [(0.0, 0.0, "pass"), (0.1, 0.1, "pass"), (0.9, 0.0, "warn"), (0.0, 0.9, "fail")],
)
def test_children(
    validation: float, after: float, status: str, honest_audit: AuditReport, mini_data: Path
) -> None:
    child = ProcessFacts(
        name="worker", first_phase="warmup", cpu_s=3.0, cpu_validation_s=validation,
        cpu_after_end_s=after, outlived=False,
    )  # fmt: skip
    assert of("untimed", honest_audit, mini_data, processes=(child,)).status == status


@pytest.mark.parametrize(
    ("gpu", "after", "status"),
    [(True, 0.4, "pass"), (True, 0.6, "fail"), (False, 0.7, "pass"), (False, 5.1, "fail"),
     (None, 0.4, "pass"), (None, 0.7, "warn"), (None, 2.1, "fail")],
)  # fmt: skip
def test_children_on_a_gpus_track(
    gpu: bool | None, after: float, status: str, honest_audit: AuditReport, mini_data: Path
) -> None:
    """The compiler's worker pools take 0.4 to 0.7 s to end, and hold no GPU."""
    child = ProcessFacts(
        name="python", first_phase="warmup", cpu_s=3.0, cpu_validation_s=0.0,
        cpu_after_end_s=after, outlived=False, gpu=gpu,
    )  # fmt: skip
    track = mini_track()
    hardware = track.hardware.model_copy(update={"kind": "gpu"})
    bundle = mini_bundle(
        HONEST,
        honest_audit.model_copy(update={"processes": (child,)}),
        mini_data,
        track=track.model_copy(update={"hardware": hardware}),
    )
    (check,) = (c for c in audit_checks(bundle) if c.id == "untimed")
    assert check.status == status


def run_from(arm: str, loss_at_0: float) -> Run:
    (log,) = parse_log(
        f"step:{step}/9 val_loss:{loss} train_time:{step}ms step_avg:1ms"
        for step, loss in ((0, loss_at_0), (9, 3.2))
    )
    return make_run(arm, 1, log=log)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("baseline", "candidate", "status"),
    [(10.8258, 10.8258, "skip"), (11.01, 10.8258, "skip"), (22.6, 10.83, "skip"),
     (10.8258, 10.70, "fail"), (10.8258, 5.0, "fail"), (3.4657, 3.45, "skip"),
     (3.4657, 3.0, "fail")],
)  # fmt: skip
def test_nothing_is_known_at_step_0(
    baseline: float, candidate: float, status: str, mini_data: Path
) -> None:
    """ln 50,257 = 10.825; published runs start between 10.8258 and 22.6."""
    runs = (run_from("baseline", baseline), run_from("candidate", candidate))
    checks = judge(mini_bundle(HONEST, None, mini_data, runs=runs)).checks
    check = next(c for c in checks if c.id == "untimed")
    assert check.status == status
