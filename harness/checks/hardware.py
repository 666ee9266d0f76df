"""Rule: the track's hardware, one node, the same for both arms."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from harness.bundle import Bundle, Run
from harness.checks.case import Case
from harness.checks.check import Check
from harness.environment import Environment
from harness.ledger import Resumed, Started
from harness.tracks.track import Track

CLOCK_SLACK_S = 120.0
"""The wall clock may be set in the middle of a series; two nodes are not started that close."""


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
        details=(*(findings or ([unofficial] if unofficial else [])), *_clocks(bundle)),
    )


def _clocks(bundle: Bundle) -> list[str]:
    """What the GPUs ran at in the counted runs of each arm, busy samples: a node that is held at
    its power limit is no fault, and explains times that differ from another node's."""
    told = []
    for arm in ("candidate", "baseline"):
        seen = [
            run.telemetry
            for run in bundle.runs
            if run.arm == arm and run.counts and run.state == "finished" and run.telemetry
        ]
        clocks = [one.sm_clock_mean_mhz for one in seen if one.sm_clock_mean_mhz is not None]
        if not clocks:
            continue
        watts = [one.power_mean_w for one in seen if one.power_mean_w is not None]
        power = f" at {median(watts):.0f} W a GPU" if watts else ""
        reasons = sorted({word.replace("_", " ") for one in seen for word in one.throttle})
        held = f", lowered by {', '.join(reasons)}" if reasons else ""
        told.append(f"{arm}: {median(clocks):,.0f} MHz{power}{held}")
    return ["clocks while busy: " + "; ".join(told)] if told else []


def _contradictions(bundle: Bundle, environment: Environment) -> list[str]:
    torch = environment.interpreter.torch
    there = {
        "gpu": {gpu.name for gpu in environment.gpus},
        "driver": {gpu.driver for gpu in environment.gpus},
        "torch": {torch} if torch else set(),
    }
    findings = []
    for run in bundle.runs:
        said = run.log.environment if run.log is not None else None
        for what, known in there.items():
            stated = getattr(said, what, None)
            # What environment.json does not know of contradicts nothing, but for a GPU.
            if stated and stated not in known and (known or what == "gpu"):
                here = " and ".join(sorted(known)) or "no GPU"
                name = "" if what == "gpu" else f"{what} "
                findings.append(
                    f"runs/{run.run_id}.log states {name}{stated}, environment.json {here}"
                )
    return findings + _other_nodes(bundle)


def _other_nodes(bundle: Bundle) -> list[str]:
    """Runs on a node that was started earlier than that of the run before.

    Telemetry has both clocks, so it tells since when its node is up. On one node that is the same
    for all runs; it moves on where the machine slept, and never back. A resumed series may have
    been through a restart, with the node's clock set anew: only what ran in one go is compared.
    """
    runs = {run.run_id: run for run in bundle.runs}
    goes: list[list[Run]] = [[]]
    for event in bundle.events:
        if isinstance(event, Resumed):
            goes.append([])
        elif isinstance(event, Started) and event.run_id in runs:
            goes[-1].append(runs[event.run_id])
    findings = []
    for went in goes:
        known = [
            (run.run_id, run.telemetry.node_up_since_s)
            for run in went
            if run.telemetry is not None and run.telemetry.node_up_since_s is not None
        ]
        findings += [
            f"{b} ran on a node that was up {(since_a - since_b) / 60:.0f} min longer than that of "
            f"{a}, the run before it"
            for (a, since_a), (b, since_b) in pairwise(known)
            if since_a - since_b > CLOCK_SLACK_S
        ]
    return findings[:6]
