"""Rule: the plan is one that the track's rules allow, whoever wrote it.

`submit` makes no other plan; a plan.json or track.toml written by hand could ask for an easier
target, more looks than its bounds pay for, or an order of runs that somebody liked.
"""

from __future__ import annotations

from harness.checks.case import Case
from harness.checks.check import Check
from harness.plan import EXCLUSIONS, Design, Plan, draw_pairs
from harness.stats.sequential import FLAT_P_BOUNDS, false_positive_rate
from harness.tracks.track import Track, load_track, track_names

LONGEST_SEQUENTIAL = 200
LONGEST_FIXED = 1000
"""Counted runs. The level of unusual looks is simulated, and that must end."""


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
    longest = LONGEST_FIXED if len(design.looks) == 1 else LONGEST_SEQUENTIAL
    if design.looks[-1] > longest:
        findings.append(
            f"plan.json design.looks: {design.looks[-1]} runs; the longest series has {longest}"
        )
        return findings
    for name, said, own in (
        ("loss_p", design.loss_p, rule.loss_p),
        ("timing_p", design.timing_p, rule.timing_p),
    ):
        if design.looks == tuple(rule.looks) and said <= own:
            continue
        level = _level(design.looks, said, alpha)
        if level > alpha:
            findings.append(
                f"plan.json design.{name}: {said:g} at these looks has a true level of "
                f"{level:.2g}, the track's is {alpha:g}"
            )
    return findings


def _level(looks: tuple[int, ...], bound: float, alpha: float) -> float:
    """How often chance beats `bound` at any of these looks."""
    if len(looks) == 1:
        return bound
    if bound <= FLAT_P_BOUNDS.get(looks, 0.0) and alpha == 0.01:
        return alpha
    # The simulation that `submit` takes its bound from, same seed: what it allows passes here.
    return false_positive_rate(looks, bound)[0]


def _order(plan: Plan) -> list[str]:
    if plan.design.looks[-1] > LONGEST_FIXED:
        return []
    drawn = draw_pairs(plan.seed, plan.design.looks[-1])
    # The warm-up pair fills the compile caches; where they are warm, a series may do without it.
    without = plan.launch.compile_caches != "cold" and plan.pairs == drawn[1:]
    if without or plan.pairs == drawn:
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
        "audit": track.audit.model_dump(),
        "design.looks": design.looks,
        "design.loss_p": design.loss_p,
        "design.timing_p": design.timing_p,
        "design.max_unfinished": design.max_unfinished,
    }
