"""verify: recompute a bundle's verdict and say in what it differs from the claimed one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.bundle import BundlePaths, read_bundle, safe_text
from harness.canonical import dumps
from harness.errors import EXIT_RULE_BROKEN, EvidenceError
from harness.verdict import judge, verdict_text
from harness.verdict_schema import Verdict

SHOWN_DIFFERENCES = 20


@dataclass(frozen=True, slots=True)
class Verification:
    """The verdict recomputed from evidence alone, and how the claimed files compare.

    differences   fields of verdict.json that the evidence does not yield; empty when it agrees
    notes         what a reader should know and that changes nothing
    """

    verdict: Verdict
    differences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_RULE_BROKEN if self.differences else self.verdict.exit_code


def verify_bundle(root: Path) -> Verification:
    """Re-hash, re-parse, re-judge. Raises EvidenceError, UsageError."""
    verdict = judge(read_bundle(root))
    paths = BundlePaths(root)
    notes: list[str] = []
    differences: tuple[str, ...] = ()
    if not paths.verdict.exists():
        notes.append("no verdict.json: nothing was claimed, the verdict below is recomputed")
    else:
        differences = _compare(safe_text(root, "verdict.json"), verdict, notes)
    notes += _compare_report(root, verdict)
    return Verification(verdict, differences, tuple(notes))


def _compare(claimed_text: str, verdict: Verdict, notes: list[str]) -> tuple[str, ...]:
    ours = verdict_text(verdict)
    if claimed_text == ours:
        return ()
    try:
        claimed = json.loads(claimed_text)
    except (ValueError, RecursionError) as error:
        return (f"verdict.json: not JSON ({error})",)
    if not isinstance(claimed, dict):
        return ("verdict.json: not an object",)
    version = claimed.get("harness_version")
    if version != __version__:
        notes.append(f"claimed by harness {_short(version)}, recomputed by {__version__}")
        claimed = {**claimed, "harness_version": __version__}
        _take_other_checks(claimed, verdict, notes)
    found = list(_walk("", claimed, json.loads(ours)))
    if not found and dumps(claimed) != claimed_text and version == __version__:
        found = ["verdict.json: same content, not in canonical form"]
    return tuple(found[:SHOWN_DIFFERENCES])


def _take_other_checks(claimed: dict[str, Any], verdict: Verdict, notes: list[str]) -> None:
    """Another version may check more, or say it in other words: that is said, and no difference.

    What the checks decide is still compared: a claimed decision that today's checks do not reach
    differs, whatever version wrote it.
    """
    ours = {check.id: check.status for check in verdict.checks}
    listed = claimed.get("checks")
    theirs = {
        str(item.get("id")): item.get("status")
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict)
    }
    changed = [
        f"{id_}: {_short(theirs.get(id_, 'absent'))} then, {ours.get(id_, 'absent')} now"
        for id_ in sorted(ours.keys() | theirs.keys())
        if theirs.get(id_) != ours.get(id_)
    ]
    if changed:
        notes.append("checks of the two versions differ: " + "; ".join(changed[:SHOWN_DIFFERENCES]))
    claimed["checks"] = [check.model_dump(mode="json") for check in verdict.checks]


def _walk(place: str, claimed: Any, ours: Any) -> list[str]:
    if isinstance(claimed, dict) and isinstance(ours, dict):
        return [
            line
            for key in sorted(set(claimed) | set(ours), key=str)
            for line in _walk(
                f"{place}.{key}".lstrip("."), claimed.get(key, "absent"), ours.get(key, "absent")
            )
        ]
    if isinstance(claimed, list) and isinstance(ours, list) and len(claimed) == len(ours):
        return [
            line
            for i, (a, b) in enumerate(zip(claimed, ours, strict=True))
            for line in _walk(f"{place}[{i}]", a, b)
        ]
    if claimed == ours and type(claimed) is type(ours):
        return []
    return [f"verdict.json {place}: claimed {_short(claimed)}, the evidence gives {_short(ours)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 90 else text[:87] + "…"


def _compare_report(root: Path, verdict: Verdict) -> list[str]:
    """The report is text for people: a difference is said, and never believed."""
    from harness.report.markdown import render_markdown

    try:
        text = safe_text(root, "README.md")
    except EvidenceError:
        return ["README.md is missing: speedrun report writes it"]
    # The commands in it name the bundle's folder, which may have been renamed since.
    named = re.search(r"speedrun verify results/([A-Za-z0-9][A-Za-z0-9._-]*)", text)
    if text not in (render_markdown(verdict, name) for name in (named and named[1], None)):
        return ["README.md is not what the evidence yields: it was edited, or written by another "
                "version; believe the verdict, not the report"]  # fmt: skip
    return []
