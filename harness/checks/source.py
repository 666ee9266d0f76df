"""Rule: the code that ran is the code in the bundle, for every run."""

from __future__ import annotations

from harness.checks.case import Case
from harness.checks.check import Check
from harness.plan import ARMS
from harness.source import Source


def check_source(case: Case) -> Check:
    """Fails when a run was started from another source than the plan's, or when candidate and
    baseline are the same code."""
    bundle = case.bundle
    findings = []
    for run in bundle.runs:
        if run.started.source_sha256 != bundle.plan.arm(run.arm).source_sha256:
            findings.append(f"{run.run_id}: started from a source that the plan does not name")
    sources = {arm: Source(bundle.plan.arm(arm).script, bundle.sources[arm]) for arm in ARMS}
    for arm, source in sources.items():
        if source.files and source.sha256() != bundle.plan.arm(arm).source_sha256:
            findings.append(f"source/{arm}: does not hash to what the plan names")
    same = sources["candidate"].syntax_sha256() == sources["baseline"].syntax_sha256()
    lines = {
        arm: sum(text.count("\n") for text in source.files.values())
        for arm, source in sources.items()
    }
    return Check(
        id="source",
        status="fail" if findings else "warn" if same else "pass",
        claim="every run was started from the source in the bundle",
        evidence=(
            f"candidate {lines['candidate']} lines in {len(sources['candidate'].files)} file(s), "
            f"baseline {lines['baseline']} in {len(sources['baseline'].files)}"
            + ("; both arms are the same code" if same else "")
        ),
        remedy="run the series again from the source you propose" if findings else "",
        rule="one source an arm, the one that is proposed",
        details=tuple(findings),
    )
