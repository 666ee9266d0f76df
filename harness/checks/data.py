"""Rule: the token stream is the track's, and nothing else is read.

Hashes of the shards are in the plan, taken before run 1. Which files a run opens is the audit
run's to say: the shim saw each open, an observer outside what processes held open or mapped.
"""

from __future__ import annotations

from harness.audit_report import AuditReport, FileUse
from harness.checks.case import Case
from harness.checks.check import Check, Status
from harness.data.stream import is_shard, is_train_shard, stated_hashes
from harness.plan import Plan
from harness.tracks.track import Track

LARGE_BYTES = 1 << 20
LOCAL = ("'127.", "'localhost", "'::1", "b'", "'/")
KNOWN_BINARIES = {
    "7e0eb90615c5e86e1b1ae74ec11e67799875fadd73f707c9f3a8e2c50a404c7a": (
        "xformers-0.0.34-cp39-abi3-manylinux_2_28_x86_64.whl: xformers/flash_attn_3/_C.so"
    ),
    "c3a75b33af334a3486d197dbd1584a2985183ba4688d237a2be5f2f679329920": (
        "nvidia_cuda_runtime_cu12-12.8.90 (manylinux2014_x86_64): libcudart.so.12"
    ),
}
"""What the extra `gpu` installs, by hash of the file in PyPI's wheels: the same wherever it lies,
say in the folder that SPEEDRUN_FA3_PATH names."""
CLAIM = "the runs read the track's token stream and nothing else"
RULE = "the stream of tokens is not changed; validation tokens are for validation"


def check_data(case: Case) -> Check:
    """Fails on shards that are not the track's, on validation tokens opened while training, on
    train shards out of order, and on reads of other results; warns on other data files."""
    bundle = case.bundle
    plan, track, report = bundle.plan, bundle.track, bundle.audit
    other = _hashes(plan, track)
    # An exhibition may use other data; it says so by itself.
    broken, odd = ([], other) if plan.exhibition else (other, [])
    if report is not None:
        for found in (_shards(report, plan, track), _validation(report, track), _others(report)):
            broken += found[0]
            odd += found[1]
    stated = stated_hashes(track)
    known = f"{len(stated)} hashes stated" if stated else "the track states no hashes"
    status: Status = "fail" if broken else "warn" if odd else "pass"
    return Check(
        id="data",
        status=status,
        claim=CLAIM,
        evidence=f"{len(plan.launch.data_sha256)} shards hashed before run 1, {known}; "
        + (_opened(report, track) if report else "no audit run says which files were opened"),
        remedy="read the track's shards in order, from DATA_PATH, and validation only to validate"
        if broken
        else "",
        rule=RULE,
        details=tuple(broken + odd)[:40],
    )


def _hashes(plan: Plan, track: Track) -> list[str]:
    found, stated = plan.launch.data_sha256, stated_hashes(track)
    broken = [
        f"plan.json launch.data_sha256: {name} is {found[name][:16]}…, the track states "
        f"{stated[name][:16]}…"
        for name in sorted(set(found) & set(stated))
        if found[name] != stated[name]
    ]
    broken += [
        f"plan.json launch.data_sha256: {name} is not among the hashes the track states"
        for name in sorted(set(found) - set(stated))
        if stated
    ]
    if track.data.validation_file not in found:
        broken.append(f"plan.json launch.data_sha256: {track.data.validation_file} is missing")
    return broken


def _of_data(report: AuditReport) -> list[FileUse]:
    return [file for file in report.files if file.zone == "data"]


def _shards(report: AuditReport, plan: Plan, track: Track) -> tuple[list[str], list[str]]:
    broken, odd = [], []
    for file in _of_data(report):
        if not is_shard(track, file.path):
            odd.append(f"opened {file.path} among the data, which is no shard of the track")
        elif file.path not in plan.launch.data_sha256:
            broken.append(f"opened {file.path}, whose hash the plan does not name")
        if file.written:
            broken.append(f"opened {file.path} for writing")
        if not file.opens.total:
            odd.append(f"{file.path} was opened by something that the shim does not see")
    order = [name for name in sorted(plan.launch.data_sha256) if is_train_shard(track, name)]
    used = [file for file in _of_data(report) if is_train_shard(track, file.path)]
    # Open as the clock begins and a validation line comes may fall on either side of the line.
    trained = {
        f.path
        for f in used
        if f.opens.reset + f.opens.clock + f.opens.validation + f.seen_outside.clock
    }
    missing = order[: len(trained)]
    if trained and trained != set(missing):
        broken.append(
            f"train shards used: {', '.join(sorted(trained)[:6])}; the stream begins with "
            f"{', '.join(missing[:6])}"
        )
    elif [f.path for f in used] != [name for name in order if name in {f.path for f in used}]:
        broken.append("train shards were first opened out of order")
    return broken, odd


def _validation(report: AuditReport, track: Track) -> tuple[list[str], list[str]]:
    broken, odd = [], []
    for file in _of_data(report):
        if file.path != track.data.validation_file:
            continue
        then = file.trained_after
        if then.clock + then.validation:
            broken.append(
                f"{file.path} was opened {then.clock + then.validation} time(s) with training "
                "steps after it, before the next validation"
            )
        if then.warmup + then.reset:
            odd.append(f"{file.path} was opened before the clock, with training steps after it")
    return broken, odd


def _others(report: AuditReport) -> tuple[list[str], list[str]]:
    broken, odd = [], []
    for file in report.files:
        told = f"{file.zone}: {file.path}"
        if file.zone == "contest":
            broken.append(f"opened {told}: baseline and results are not the candidate's to read")
        elif file.zone in ("other", "home", "shm") and file.written:
            odd.append(f"wrote {told}, outside its own folder")
        elif file.existed and not file.written and file.zone in ("other", "home", "temporary"):
            if (file.size_bytes or 0) >= LARGE_BYTES:
                odd.append(f"read {told}, which was there before the run")
        elif file.existed and file.zone == "shm":
            odd.append(f"read {told}: shared memory that was there before the run")
    odd += [f"connected to {where}" for where in report.sockets if not _is_local(where)]
    odd += [
        f"loaded {name} (sha256 {digest[:16]}…)"
        for name, digest in report.binaries.items()
        if digest not in KNOWN_BINARIES
    ]
    return broken, odd


def _is_local(address: str) -> bool:
    return address.lstrip("(").startswith(LOCAL)


def _opened(report: AuditReport, track: Track) -> str:
    files = [file for file in _of_data(report) if is_shard(track, file.path)]
    return f"{len(files)} shard(s) opened by the audit run"
