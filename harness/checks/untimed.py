"""Rule: what is trained or read from the data is on the clock.

Outside the clock lie compilation, a warm-up whose every trace is put back, and validation. The
audit run says what else does: parameters that keep the warm-up's training, data read after the
reset, gradient steps during validation, children that work on, a clock that is not the clock.
"""

from __future__ import annotations

from math import log

from harness.audit_report import AuditReport, ProcessFacts
from harness.bundle import Run
from harness.checks.audited import without_audit
from harness.checks.case import Case
from harness.checks.check import Check, Status
from harness.checks.convergence import curve
from harness.data.stream import is_train_shard, token_rule
from harness.plan import ArmName
from harness.tracks.track import Track

READ_BYTES, READ_SHARE = 1 << 18, 0.25
"""Read of a shard between reset and clock: less is a header, or the rest of what was open."""
CHILD_CPU_S = 0.5
CHILD_WITHOUT_GPU_S, CHILD_UNKNOWN_S = 5.0, 2.0
"""On a GPU's track, work after the end that is no training yet. The ends of the compiler's worker
pools, one a rank, are what took 0.4 to 0.7 s there (4 x H200, torch 2.11), as far as the start of
such programs tells; whether they hold a GPU was first looked at after that run."""
LEARNT_NATS = 0.1
CLAIM = "nothing but compilation, a warm-up without trace and validation lies outside the clock"
RULE = "training time counts everything but validation"


def check_untimed(case: Case) -> Check:
    """Fails on training or reads of training data outside the clock, by the audit run; and on a
    loss at step 0 that an untrained model cannot have, by any run."""
    learnt = _learnt_before(case)
    report = case.bundle.audit
    if report is None:
        missing = without_audit(case, "untimed", CLAIM, RULE)
        if not learnt and missing is not None:
            return missing
    broken, odd = list(learnt), list[str]()
    if report is not None:
        for found in (
            _parameters(report), _clocks(report), _validation(report),
            _reads(report, case.bundle.track), _children(report, case.bundle.track),
        ):  # fmt: skip
            broken += found[0]
            odd += found[1]
    status: Status = "fail" if broken else "warn" if odd else "pass"
    return Check(
        id="untimed",
        status=status,
        claim=CLAIM,
        evidence=_evidence(report) if report is not None else "no audit run",
        remedy="put all state back after the warm-up, and read training data on the clock"
        if broken
        else "",
        rule=RULE,
        details=tuple(broken + odd)[:40],
    )


def _evidence(report: AuditReport) -> str:
    first = report.ranks[0] if report.ranks else None
    if first is None:
        return "the shim left no notes"
    calls, state = first.backward, first.parameters
    told = (
        f"backward passes of rank {first.rank}: {calls.warmup + calls.reset} before the clock, "
        f"{calls.clock} on it, {first.late_backward} while validating"
    )
    if state is not None:
        told += f"; {state.same} of {state.tensors} parameters back to the bit"
    return told


def _learnt_before(case: Case) -> list[str]:
    """A model that knows nothing of the data has a loss of at least ln V."""
    before = [loss for run in _finished(case, "baseline") for loss in _at_zero(run)]
    floor = min([log(token_rule(case.bundle.track).vocab_size), *before])
    return [
        f"runs/{run.run_id}.log: loss {loss:.4f} at step 0, an untrained model has {floor:.4f}"
        for run in _finished(case, "candidate")
        for loss in _at_zero(run)
        if loss < floor - LEARNT_NATS
    ]


def _at_zero(run: Run) -> list[float]:
    return [loss for step, loss in curve(run) if step == 0]


def _finished(case: Case, arm: ArmName) -> list[Run]:
    return [run for run in case.bundle.runs if run.arm == arm and run.state == "finished"]


def _parameters(report: AuditReport) -> tuple[list[str], list[str]]:
    broken, odd = [], []
    for rank in report.ranks:
        state = rank.parameters
        if state is None:
            continue
        if state.kept:
            broken.append(
                f"rank {rank.rank}: {state.kept} of {state.tensors} parameters keep what was "
                "trained before the clock"
            )
        elif state.fresh:
            odd.append(
                f"rank {rank.rank}: {state.fresh} of {state.tensors} parameters were drawn anew "
                "after the warm-up"
            )
    if report.ranks and not any(rank.backward.clock for rank in report.ranks):
        odd.append("no backward pass was seen on the clock: how it trains is not known")
    return broken, odd


def _clocks(report: AuditReport) -> tuple[list[str], list[str]]:
    return [
        f"rank {rank.rank}: {', '.join(rank.replaced_clocks)} replaced"
        for rank in report.ranks
        if rank.replaced_clocks
    ], []


def _validation(report: AuditReport) -> tuple[list[str], list[str]]:
    return [
        f"rank {rank.rank}: {rank.late_backward} backward passes while a validation was made"
        for rank in report.ranks
        if rank.late_backward
    ], []


def _reads(report: AuditReport, track: Track) -> tuple[list[str], list[str]]:
    broken = []
    for file in report.files:
        read = file.read_reset_bytes or 0
        wanted = max(READ_BYTES, int(READ_SHARE * (file.size_bytes or 0)))
        if file.zone == "data" and is_train_shard(track, file.path) and read >= wanted:
            broken.append(
                f"{read / 1e6:.1f} MB of {file.path} read after the reset and before the clock"
            )
    return broken, []


def _children(report: AuditReport, track: Track) -> tuple[list[str], list[str]]:
    broken, odd = [], []
    for child in report.processes:
        limit_s = CHILD_CPU_S
        if track.hardware.kind == "gpu" and not child.gpu:
            limit_s = CHILD_UNKNOWN_S if child.gpu is None else CHILD_WITHOUT_GPU_S
        worked = f"{_named(child)} worked {child.cpu_after_end_s:.1f} s after the end"
        if child.cpu_after_end_s >= limit_s:
            broken.append(worked)
        elif child.cpu_after_end_s >= CHILD_CPU_S and child.gpu is None:
            odd.append(f"{worked}; whether it held a GPU was not looked at")
        elif child.cpu_validation_s >= CHILD_CPU_S:
            odd.append(
                f"{_named(child)} worked {child.cpu_validation_s:.1f} s while the last validation "
                "was made"
            )
    return broken, odd


def _named(child: ProcessFacts) -> str:
    return f"a child ({child.name}, since the phase {child.first_phase})"
