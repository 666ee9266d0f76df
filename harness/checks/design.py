"""Rule: the plan is one that the track's rules allow, whoever wrote it.

`submit` makes no other plan; a plan.json or track.toml written by hand could ask for an easier
target, more looks than its bounds pay for, or an order of runs that somebody liked.
"""

from __future__ import annotations

from harness.checks.case import Case
from harness.checks.check import Check
from harness.plan import EXCLUSIONS, Design, Plan, draw_pairs
from harness.stats.sequential import flat_p_bound
from harness.tracks.track import Track, load_track, track_names

LONGEST_SEQUENTIAL = 200
LONGEST_FIXED = 1000
"""Counted runs. The bound of unusual looks is simulated: 0.8 s at 200 runs."""


def check_design(case: Case) -> Check:
    """Fails when plan and rules disagree, or the rules are not this package's of that name."""
    plan, track = case.bundle.plan, case.bundle.track
    findings = _rules(plan, track) + _design(plan.design, track) + _order(plan)
    older, different = _shipped(track)
    findings += different
    looks = "/".join(str(look) for look in plan.design.looks)
    known = "" if track.name in track_names() else ", a track of the bundle's own"
    return Check(
        id="design",
        status="fail" if findings else "warn" if older else "pass",
        claim="the plan is one that the track's rules allow",
        evidence=f"{plan.design.kind}, looks {looks}, p ≤ {plan.design.loss_p:g} and "
        f"≤ {plan.design.timing_p:g}; track {track.name}, rules version "
        f"{track.contest.rules_version}{known}",
        remedy="run the series again: speedrun submit makes its own plan" if findings else "",
        rule="the design is fixed before run 1, by the track's rules",
        details=tuple(findings) or older,
    )


def _rules(plan: Plan, track: Track) -> list[str]:
    contest, findings = track.contest, []
    if plan.track != track.name:
        findings.append(f"plan.json track: {plan.track!r}, track.toml is {track.name!r}")
    if not plan.exhibition:
        if plan.target_loss_nats != contest.target_loss_nats:
            findings.append(
                f"plan.json target_loss_nats: {plan.target_loss_nats:g}, the track's is "
                f"{contest.target_loss_nats:g}"
            )
        if plan.launch.processes != track.hardware.processes and not track.hardware.any_count:
            findings.append(
                f"plan.json launch.processes: {plan.launch.processes}, the track has "
                f"{track.hardware.processes}"
            )
    unknown = [rule.id for rule in plan.exclusions if rule not in EXCLUSIONS]
    if unknown:
        findings.append(f"plan.json exclusions: {', '.join(unknown)} is no criterion of submit")
    return findings


def _design(design: Design, track: Track) -> list[str]:
    alpha, rule, findings = track.contest.alpha, track.design, []
    if design.alpha != alpha:
        findings.append(f"plan.json design.alpha: {design.alpha:g}, the track's is {alpha:g}")
    if design.max_unfinished > rule.max_unfinished:
        findings.append(
            f"plan.json design.max_unfinished: {design.max_unfinished}, the track allows "
            f"{rule.max_unfinished}"
        )
    try:
        bounds = _bounds(design, track)
    except ValueError as error:
        return [*findings, f"plan.json design.looks: {error}"]
    for name, said, bound in (
        ("loss_p", design.loss_p, bounds[0]),
        ("timing_p", design.timing_p, bounds[1]),
    ):
        if not 0 < said <= bound:
            findings.append(
                f"plan.json design.{name}: {said:g}, these looks allow at most {bound:g} for a "
                f"true level of {alpha:g}"
            )
    return findings


def _bounds(design: Design, track: Track) -> tuple[float, float]:
    """Largest (loss p, timing p) that these looks may use; ValueError for looks that are none."""
    rule, alpha = track.design, track.contest.alpha
    if design.looks == tuple(rule.looks) and design.kind != "fixed":
        return rule.loss_p, rule.timing_p
    longest = LONGEST_FIXED if len(design.looks) == 1 else LONGEST_SEQUENTIAL
    if design.looks and max(design.looks) > longest:
        raise ValueError(f"{max(design.looks)} runs; the longest series has {longest}")
    return (flat_p_bound(design.looks, alpha),) * 2


def _order(plan: Plan) -> list[str]:
    if not plan.design.looks or max(plan.design.looks) > LONGEST_FIXED:
        return []
    if plan.pairs == draw_pairs(plan.seed, max(plan.design.looks)):
        return []
    return [f"plan.json pairs: not the order that seed {plan.seed} draws"]


def _shipped(track: Track) -> tuple[tuple[str, ...], list[str]]:
    """(older rules worth a warning, differences from this package's track of that name)."""
    if track.name not in track_names():
        return (), []
    ours = load_track(track.name)
    version, current = track.contest.rules_version, ours.contest.rules_version
    if version < current:
        return (f"made under rules version {version}, the track now has {current}",), []
    theirs_said, ours_said = _binding(track), _binding(ours)
    return (), [
        f"track.toml {name}: {theirs_said[name]}, the track {track.name} has {ours_said[name]}"
        for name in ours_said
        if theirs_said[name] != ours_said[name]
    ]


def _binding(track: Track) -> dict[str, object]:
    """What decides; prices, estimates, titles and the standing record's time may change."""
    contest, design, hardware = track.contest, track.design, track.hardware
    return {
        "contest.rules_version": contest.rules_version,
        "contest.target_loss_nats": contest.target_loss_nats,
        "contest.alpha": contest.alpha,
        "contest.compared_on": contest.compared_on,
        "contest.loss_rule": contest.loss_rule,
        "contest.loss_sd_nats": contest.loss_sd_nats,
        "data": track.data.model_dump(),
        "hardware.kind": hardware.kind,
        "hardware.processes": hardware.processes,
        "hardware.classes": hardware.classes,
        "hardware.official_class": hardware.official_class,
        "hardware.any_count": hardware.any_count,
        "compile": track.compile.model_dump(),
        "design.looks": design.looks,
        "design.loss_p": design.loss_p,
        "design.timing_p": design.timing_p,
        "design.max_unfinished": design.max_unfinished,
    }
