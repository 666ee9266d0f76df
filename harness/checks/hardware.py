"""Rule: the track's hardware, one node, the same for both arms."""

from __future__ import annotations

from harness.bundle import Bundle
from harness.checks.case import Case
from harness.checks.check import Check
from harness.environment import Environment
from harness.tracks.track import Track


def hardware_class(track: Track, environment: Environment) -> str | None:
    """Name of the track's class that these GPUs belong to; None if none, or if they are mixed."""
    names = {gpu.name for gpu in environment.gpus}
    for label, members in track.hardware.classes.items():
        if names and names <= set(members):
            return label
    return None


def unofficial_hardware(track: Track, environment: Environment) -> str:
    """Why runs here cannot be official ones; empty when they can."""
    rule = track.hardware
    if rule.kind == "cpu" or rule.any_count:
        return ""
    names = sorted({gpu.name for gpu in environment.gpus}) or ["no GPU"]
    count = len(environment.gpus)
    if count < rule.processes:
        return f"the track asks for {rule.processes} GPUs, this node has {count} ({names[0]})"
    label = hardware_class(track, environment)
    if label != rule.official_class:
        found = f"hardware class {label}" if label else f"unknown GPUs ({', '.join(names)})"
        return f"{found}; official runs are made on class {rule.official_class}"
    return ""


def check_hardware(case: Case) -> Check:
    """Fails when logs or environment name other hardware than the plan allows."""
    bundle = case.bundle
    environment = bundle.environment
    if environment is None:
        return Check(
            id="hardware",
            status="fail",
            claim="both arms ran on the track's hardware, on one node",
            evidence="environment.json is missing or malformed",
            remedy="restore environment.json as `speedrun submit` wrote it",
            rule="the track's hardware; time is never pooled across nodes",
        )
    findings = _contradictions(bundle, environment)
    unofficial = unofficial_hardware(bundle.track, environment)
    if unofficial and not bundle.plan.exhibition:
        findings.append(unofficial)
    gpus = ", ".join(
        f"{sum(gpu.name == name for gpu in environment.gpus)} × {name}"
        for name in sorted({gpu.name for gpu in environment.gpus})
    )
    return Check(
        id="hardware",
        status="fail" if findings else "warn" if unofficial else "pass",
        claim="both arms ran on the track's hardware, on one node",
        evidence=gpus or f"CPU: {environment.cpu_model}, {environment.cores_physical} cores",
        remedy=(
            "run on the track's hardware, or as an exhibition: --exhibition"
            if findings
            else "an exhibition: cannot be promoted as a record"
            if unofficial
            else ""
        ),
        rule="the track's hardware; time is never pooled across nodes",
        details=tuple(findings) or ((unofficial,) if unofficial else ()),
    )


def _contradictions(bundle: Bundle, environment: Environment) -> list[str]:
    known = {gpu.name for gpu in environment.gpus}
    findings = []
    for run in bundle.runs:
        stated = run.log.environment.gpu if run.log is not None else None
        if stated and stated not in known:
            here = " and ".join(sorted(known)) or "no GPU"
            findings.append(f"runs/{run.run_id}.log states {stated}, environment.json {here}")
    return findings
