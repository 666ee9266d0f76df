"""scan_flags(source, track): every finding that a source gives without being run."""

from __future__ import annotations

from harness.scan.analysis import Analysis, analyse
from harness.scan.clocks import find_patched_clocks
from harness.scan.compile_flags import find_compile_flags
from harness.scan.config_writes import find_config_writes
from harness.scan.environment_writes import find_environment_writes
from harness.scan.finding import Finding, ordered
from harness.scan.loaded_code import find_loaded_code, find_shadows
from harness.scan.printed_results import find_printed_results
from harness.scan.surroundings import find_sleeps, find_surroundings
from harness.source import Source
from harness.tracks.track import CompileRule, Track

RULES = (
    find_compile_flags,
    find_config_writes,
    find_environment_writes,
    find_loaded_code,
    find_shadows,
    find_patched_clocks,
    find_printed_results,
    find_surroundings,
)


def scan_flags(source: Source, track: Track) -> tuple[Finding, ...]:
    """Everything in `source` that breaks the track's compile rule or needs a reviewer's eye.

    Pure: nothing is executed, no file is opened. Raises nothing for any text.
    """
    return run_rules(analyse(source, track.compile))


def run_rules(analysis: Analysis) -> tuple[Finding, ...]:
    """All rules over one analysis."""
    for rule in RULES:
        rule(analysis)
    if analysis.resolver.exhausted:
        analysis.findings.append(
            Finding(
                path=analysis.source.script,
                line=0,
                column=0,
                rule="too-tangled",
                what="the names in this script could not be followed to the end",
                why="the analysis stops after a fixed number of steps",
                remedy="use fewer aliases and indirections",
                severity="warn",
            )
        )
    return ordered(analysis.findings)


def scan_baseline(source: Source) -> tuple[Finding, ...]:
    """What would make a baseline slow on purpose."""
    analysis = analyse(source, CompileRule(free=True))
    find_sleeps(analysis)
    find_patched_clocks(analysis)
    return ordered(f for f in analysis.findings if f.rule != "syntax")
