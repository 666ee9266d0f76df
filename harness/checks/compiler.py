"""Rule: no extra compile or inductor flags, as they were in force while the audit run compiled.

The flags check reads the source; this reads what the compiler was told, however it was told:
through the environment, a file imported at run time, or code that no scan resolves.
"""

from __future__ import annotations

from harness.audit_report import CompilerFacts
from harness.checks.audited import without_audit
from harness.checks.case import Case
from harness.checks.check import Check
from harness.tracks.track import CompileRule

COMPILER_VARIABLES = ("TORCHINDUCTOR_", "TORCH_COMPILE", "TORCHDYNAMO_", "TRITON_")
SET_BY_DYNAMIC = (
    "torch._dynamo.config.automatic_dynamic_shapes",
    "torch._dynamo.config.assume_static_by_default",
)
"""What torch.compile(dynamic=...) patches by itself while it compiles."""
CLAIM = "the compiler ran with the track's flags"
RULE = "no extra torch.compile or inductor flags"


def check_compiler(case: Case) -> Check:
    """Fails on an argument, option, patch or variable in force beyond the track's allow-list."""
    missing = without_audit(case, "compiler", CLAIM, RULE)
    report, rule = case.bundle.audit, case.bundle.track.compile
    if missing is not None or report is None:
        return missing or Check(id="compiler", status="skip", claim=CLAIM, evidence="no audit run")
    facts = report.compiler
    findings = [] if rule.free else beyond(facts, rule)
    return Check(
        id="compiler",
        status="fail" if findings else "pass",
        claim=CLAIM,
        evidence=(
            f"{len(facts.compile_kwargs)} kind(s) of torch.compile call, {len(facts.config)} "
            "option(s) not at their default" + ("; the track allows any" if rule.free else "")
        ),
        remedy="take the flags out; what the track allows is in its [compile]" if findings else "",
        rule=RULE,
        details=tuple(findings)[:40],
    )


def beyond(facts: CompilerFacts, rule: CompileRule) -> list[str]:
    """What the allow-list does not cover."""
    findings = [
        f"torch.compile({name}={value})"
        for kwargs in facts.compile_kwargs
        for name, value in sorted(kwargs.items())
        if name not in rule.allowed_kwargs
    ]
    findings += [
        f"{name} = {' and '.join(values[1:])}, untouched it is {values[0]}"
        for name, values in sorted(facts.config.items())
        if name not in rule.allowed_config
        and not ("dynamic" in rule.allowed_kwargs and name in SET_BY_DYNAMIC)
    ]
    findings += [
        f"the compiler was handed {name} = {value}"
        for name, value in sorted(facts.patches.items())
        if f"torch._inductor.config.{name}" not in rule.allowed_config
    ]
    findings += [
        f"the script sets {name}={value} in its environment"
        for name, value in sorted(facts.variables.items())
        if name.startswith(COMPILER_VARIABLES)
    ]
    return list(dict.fromkeys(findings))
