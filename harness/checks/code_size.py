"""Information: the real code that a candidate adds, and what a millisecond of gain costs in it."""

from __future__ import annotations

from harness.checks.case import Case
from harness.checks.check import Check
from harness.code_size import CodeSize, compare_code
from harness.scan.syntax import UnparsableError
from harness.source import Source

MOST_NAMES = 12
CLAIM = "the code that a reader must take in for the gain is stated"
RULE = "readability is weighed against the gain: 200 lines for 300 ms yes, 500 lines for 50 ms no"


def check_code_size(case: Case) -> Check:
    """Never fails; skipped where a source is missing or is no Python."""
    bundle = case.bundle
    sources = [
        Source(bundle.plan.arm(arm).script, bundle.sources[arm])
        for arm in ("candidate", "baseline")
    ]
    if not all(source.files for source in sources):
        return _skipped("the source of an arm is missing")
    try:
        size = compare_code(*sources)
    except UnparsableError as error:
        return _skipped(f"a source cannot be read as Python: {error.why}")
    return Check(
        id="code",
        status="pass",
        claim=CLAIM,
        evidence=size.text() + price(size, case.timing.saved_ms),
        rule=RULE,
        details=tuple(details(size)),
    )


def price(size: CodeSize, saved_ms: float | None) -> str:
    """`; 0.71 lines added a millisecond gained`, "" where nothing was gained or added."""
    lines = size.lines_added - size.lines_removed
    if saved_ms is None or saved_ms <= 0 or size.same:
        return ""
    return f"; {lines:+,} lines for {saved_ms:,.0f} ms, {lines / saved_ms:.2g} a millisecond"


def details(size: CodeSize) -> list[str]:
    """Names of what is new and what is gone, kernels first."""
    lists = (
        ("new kernels", size.kernels_added),
        ("kernels gone", size.kernels_removed),
        ("new functions", tuple(f for f in size.functions_added if f not in size.kernels_added)),
        (
            "functions gone",
            tuple(f for f in size.functions_removed if f not in size.kernels_removed),
        ),
    )
    found = []
    for label, names in lists:
        if names:
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            found.append(f"{label}: {', '.join(names[:MOST_NAMES])}{more}")
    if size.moved_ignored:
        found.append("too long for a diff: lines were compared without their order")
    return found


def _skipped(why: str) -> Check:
    return Check(id="code", status="skip", claim=CLAIM, evidence=why, rule=RULE)
