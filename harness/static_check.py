"""All that can be said of a candidate without running it: the work of `speedrun check`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.code_size import CodeSize, compare_code
from harness.errors import EXIT_ACCEPTED, EXIT_RULE_BROKEN, UsageError
from harness.places import repository
from harness.scan.analysis import analyse, unparsable
from harness.scan.contract import find_contract_hints, strong_checks
from harness.scan.finding import Finding, Severity, ordered
from harness.scan.scan import run_rules, scan_baseline
from harness.scan.syntax import UnparsableError, parse_script
from harness.source import SOURCE_LIMIT_BYTES, Source, read_source
from harness.tracks.track import Track, load_track, track_names

_PLACE = re.compile(r"^(.*?)(?::(\d+))?$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StaticReport:
    """What `speedrun check` found.

    script     the path as it was given
    files      the script and what travels with it
    size       real code against the baseline; None where there is no baseline to compare with
    strong     the script opens the strong checks (re-scoring, leak probes)
    """

    script: str
    track: str
    files: tuple[str, ...]
    baseline: str
    findings: tuple[Finding, ...]
    size: CodeSize | None
    strong: bool

    @property
    def exit_code(self) -> int:
        return EXIT_RULE_BROKEN if self.count("fail") else EXIT_ACCEPTED

    def count(self, severity: Severity) -> int:
        return sum(1 for finding in self.findings if finding.severity == severity)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema_version": 1,
            "script": self.script,
            "track": self.track,
            "files": list(self.files),
            "baseline": self.baseline or None,
            "findings": [asdict(finding) for finding in self.findings],
            "code": asdict(self.size) if self.size is not None else None,
            "strong_checks": self.strong,
            "exit_code": self.exit_code,
        }


def check_candidate(script: Path, track: Track, baseline: Path | None) -> StaticReport:
    """Parse, resolve and look; run nothing.

    Raises UsageError where there is no script to look at: no file, not .py, not UTF-8, too large.
    A script that is no valid Python is a finding, so that it can be annotated.
    """
    source, problem = _read(script)
    if problem is not None:
        return StaticReport(str(script), track.name, (script.name,), "", (problem,), None, False)
    analysis = analyse(source, track.compile)
    findings = [*run_rules(analysis), *find_contract_hints(analysis)]
    if script.resolve().parent.name != "" and not any(f.rule == "syntax" for f in findings):
        findings += _left_behind(script, source, findings)
    standing = _standing_record(track)
    against = baseline or standing
    size = None
    if against is not None and against.resolve() != script.resolve():
        other, trouble = _read(against)
        if trouble is None:
            size = _compare(source, other)
            if baseline is not None:
                findings += _judge_baseline(other, against, standing)
        elif baseline is not None:
            raise UsageError(
                "the baseline cannot be read as Python", where=str(against), why=trouble.why
            )
    return StaticReport(
        script=str(script),
        track=track.name,
        files=tuple(sorted(source.files)),
        baseline=str(against) if size is not None else "",
        findings=ordered(findings),
        size=size,
        strong=strong_checks(analysis),
    )


def choose_track(script: Path, asked: str | None) -> Track:
    """The track asked for, or the one that the script's name begins with, or small."""
    if asked is not None:
        return load_track(asked)
    first = re.split(r"[_\-.]", script.stem)[0]
    return load_track(first if first in track_names() else "small")


def _read(script: Path) -> tuple[Source, Finding | None]:
    """The script with its closure, or the finding why it is no Python."""
    empty = Source(script.name, {})
    try:
        size = script.stat().st_size if script.is_file() else 0
    except (OSError, ValueError) as error:
        raise UsageError(f"{script} cannot be looked at", why=str(error)) from None
    if size > SOURCE_LIMIT_BYTES:
        raise UsageError(
            f"{script} is too large for a script",
            why=f"{size:,} bytes, the limit is {SOURCE_LIMIT_BYTES:,}",
            fix="keep data out of the script",
        )
    if size and script.suffix == ".py":
        try:
            parse_script(script.read_text(encoding="utf-8"))
        except UnparsableError as error:
            return empty, unparsable(script.name, error)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{script} is not UTF-8 text", why=f"{error.reason} at byte {error.start}"
            ) from None
        except OSError as error:
            raise UsageError(f"{script} cannot be read", why=str(error.strerror)) from None
    try:
        return read_source(script), None
    except UsageError as error:
        sibling = _sibling_problem(script, error)
        if sibling is None:
            raise
        return empty, sibling
    except (RecursionError, MemoryError):
        return empty, unparsable(script.name, UnparsableError(0, "nested too deeply"))


def _sibling_problem(script: Path, error: UsageError) -> Finding | None:
    """A file that travels with the script and does not parse, as a finding; else None."""
    found = _PLACE.match(error.where)
    if found is None or not found.group(1).endswith(".py"):
        return None
    path = Path(found.group(1))
    if path.resolve() == script.resolve() or not path.is_file():
        return None
    return Finding(
        path=path.name,
        line=int(found.group(2) or 0),
        column=0,
        rule="syntax",
        what=error.what,
        why=error.why or "the script imports it",
        remedy=error.fix or "mend it",
        severity="fail",
    )


def _left_behind(script: Path, source: Source, findings: list[Finding]) -> list[Finding]:
    """Files beside the script that are loaded by a computed name: they would not travel."""
    root = script.resolve().parent
    names: set[str] = set()
    analysis_names = re.compile(r"[A-Za-z_]\w*")
    for text in source.files.values():
        for call in re.finditer(r"(?:import_module|__import__)\s*\(\s*([^()\n]{1,200})", text):
            names.update(analysis_names.findall(call.group(1)))
    return [
        Finding(
            path=source.script,
            line=0,
            column=0,
            rule="loaded-code",
            what=f"{name}.py lies beside the script and is imported by a string",
            why="only files imported by name travel with the script",
            remedy=f"write: import {name}",
            severity="warn",
        )
        for name in sorted(names)
        if f"{name}.py" not in source.files and (root / f"{name}.py").is_file()
    ]


def _standing_record(track: Track) -> Path | None:
    root = repository()
    path = root / track.baseline if root is not None else None
    return path if path is not None and path.is_file() else None


def _compare(candidate: Source, baseline: Source) -> CodeSize | None:
    try:
        return compare_code(candidate, baseline)
    except UnparsableError:
        return None


def _judge_baseline(baseline: Source, path: Path, standing: Path | None) -> list[Finding]:
    """Another baseline than the standing record: named, and searched for sleeps."""
    if standing is None or standing.resolve() == path.resolve():
        return []
    record, trouble = _read(standing)
    difference = _compare(baseline, record) if trouble is None else None
    if difference is None or (difference.same and not difference.lines_added):
        return []
    different = Finding(
        path=str(path),
        line=0,
        column=0,
        rule="baseline",
        what="the baseline is not the standing record",
        why=f"its code differs from {standing.name}'s",
        remedy="compare with the standing record as it is",
        severity="warn",
    )
    return [different, *scan_baseline(baseline)]
